"""Whether a run is in good health: what its metrics say of it, as a warning with cause and remedy, or as a stop.

That the engine samples from the policy is the :class:`~hapo_lit.training.callbacks.watchdog.Watchdog`'s to measure.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hapo_lit.numerics.ranges import (
    SettingError,
    check_count,
    check_not_negative,
    check_optional_count,
    check_positive,
    check_share,
)
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer

Kind = Literal["truncated", "dead_reward", "entropy", "kl", "ratio", "verifier", "data", "disk"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_THE_MACHINE = ("data", "disk")
"""What lies in the machine and is no part of the run state: a run that resumes says it again."""
MEMORY = "health"
"""The name of this callback's memory in the run state."""


@dataclass(frozen=True)
class Sign:
    """How one kind of trouble is seen, and what is said of it."""

    value: Callable[[Mapping[str, float]], float | None] | None
    """The number to compare, of a step's metrics; its None = this step says nothing of it.  None = it is no metric."""
    text: Callable[[float], str]
    """What the number means: likely cause, and which setting to change."""


def _of(name: str) -> Callable[[Mapping[str, float]], float | None]:
    return lambda metrics: metrics.get(name)


def _dead_reward(metrics: Mapping[str, float]) -> float | None:
    """The success rate where no group has a signal of its own and all responses fare alike; 0.5 elsewhere."""
    rate = metrics.get("success/rate")
    alike = rate in (0.0, 1.0) and metrics["signal/flat_before"] == 1
    return rate if rate is None or alike else 0.5


def _verifier(metrics: Mapping[str, float]) -> float | None:
    if "verify/timeout" not in metrics:
        return None
    return metrics["verify/timeout"] + metrics.get("verify/worker_died", 0.0)


def _data(metrics: Mapping[str, float]) -> float | None:
    if "time/data" not in metrics or "time/step" not in metrics:
        return None
    return metrics["time/data"] / max(metrics["time/data"] + metrics["time/step"], 1e-9)


def _dead_reward_text(rate: float) -> str:
    if rate:
        return "every response was right: the problems teach nothing more; take harder ones (data.*)"
    return (
        "no response was right, so that only teachers can teach: problems are too hard (data.*, more of group_size, "
        "gate and injector), or answers are not found (verify/* in metrics.csv, template; `hapo data inspect`)"
    )


SIGNS: dict[Kind, Sign] = {
    "truncated": Sign(
        _of("response/truncated"),
        lambda value: (
            f"{value:.0%} of the responses met the length limit, mostly before their answer: raise "
            f"max_response_tokens, or look in completions.jsonl for repetition (no end of sequence: rollout.stop_ids)"
        ),
    ),
    "dead_reward": Sign(_dead_reward, _dead_reward_text),
    "entropy": Sign(
        _of("loss/entropy"),
        lambda value: (
            f"the policy's entropy is {value:.2g} nats a token: its samples are all the same; lower "
            f"learning_rate, raise loss.entropy_coefficient or loss.clip.high, or go back to an earlier checkpoint"
        ),
    ),
    "kl": Sign(
        _of("loss/kl"),
        lambda value: (
            f"the policy is {value:.3g} nats a token from its reference: lower learning_rate, or raise "
            f"loss.kl_coefficient"
        ),
    ),
    "ratio": Sign(
        _of("loss/ratio_above_2"),
        lambda value: (
            f"{value:.0%} of the tokens are more than twice as likely as when they were sampled: lower "
            f"learning_rate, module.updates_per_batch or module.minibatches, or bound the ratios (loss=dual_clip)"
        ),
    ),
    "verifier": Sign(
        _verifier,
        lambda value: (
            f"{value:.1%} of the answers met a limit of the verifier and got no reward for it: raise "
            f"verifier.cpu_seconds or verifier.memory_mib, or leave the machine to fewer processes (verifier.workers)"
        ),
    ),
    "data": Sign(
        _data,
        lambda value: (
            f"{value:.0%} of the time is spent waiting for data: raise data.workers, or put data and cache "
            f"(paths.cache) on a faster disk"
        ),
    ),
    "disk": Sign(
        None,
        lambda value: (
            f"the disk of the run's folder has {max(value, 0):.1f} GiB left besides the next checkpoint: "
            f"make room, or keep fewer checkpoints (callbacks.checkpointer.keep)"
        ),
    ),
}


class Health(RunCallback):
    """Warns once when a bound is passed ``steps`` steps in a row, and again only after as many steps within it.

    Rank 0 prints the warning.  What ``stop`` names also ends the run after that step, with a checkpoint.  A run that
    resumes remembers what it has said.  Every bound may be None = never.

    Args:
        folder: the run's, whose disk is looked at.
        steps: in a row for which a bound must be passed.
        truncated: share of the responses that meet the length limit, at most.
        dead_reward: steps in a row in which all responses were wrong, or all right, and no group had a signal.
        entropy: in nats a token, at least.
        kl: to the reference, in nats a token, at most; with a KL term.
        ratio: share of the tokens with π/π_old above 2, at most.
        verifier: share of the answers that meet a limit of the verifier, at most; above its own limit it ends the run.
        data: share of the time that may be spent waiting for data.
        disk: GiB that must be left besides the next checkpoint.
        stop: the kinds, named as their bounds, that end the run.
    """

    def __init__(
        self,
        folder: str,
        steps: int = 10,
        truncated: float | None = 0.5,
        dead_reward: int | None = 20,
        entropy: float | None = 0.01,
        kl: float | None = 1.0,
        ratio: float | None = 0.1,
        verifier: float | None = 0.005,
        data: float | None = 0.5,
        disk: float | None = 1.0,
        stop: Sequence[Kind] = (),
    ) -> None:
        self.folder, self.steps = Path(folder), check_count("steps", steps)
        check_optional_count("dead_reward", dead_reward)
        for name, share in {"truncated": truncated, "ratio": ratio, "verifier": verifier, "data": data}.items():
            if share is not None:
                check_share(name, share)
        for name, number in {"entropy": entropy, "disk": disk}.items():
            if number is not None:
                check_not_negative(name, number)
        if kl is not None:
            check_positive("kl", kl)
        bounds: dict[Kind, float | None] = {"truncated": truncated, "dead_reward": dead_reward, "entropy": entropy}
        bounds |= {"kl": kl, "ratio": ratio, "verifier": verifier, "data": data, "disk": disk}
        self.bounds: dict[Kind, float] = {kind: bound for kind, bound in bounds.items() if bound is not None}
        for kind in stop:
            if kind not in KINDS:
                raise SettingError("stop", f"must be a list of {', '.join(KINDS)}, got {kind!r}")
            if kind not in self.bounds:
                raise SettingError("stop", f"names {kind}, which is not looked at: set callbacks.health.{kind}")
        self.stop = frozenset(stop)
        self._checkpoint_gib = 0.0
        self._memory: dict[str, list[int]] = {}
        self._of_the_machine: dict[str, list[int]] = {}

    def on_fit_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        self._memory = pl_module.callback_memory.setdefault(MEMORY, {})
        sizes = ((weight.nbytes, 3 if weight.requires_grad else 1) for weight in pl_module.parameters())
        self._checkpoint_gib = sum(size * copies for size, copies in sizes) / 2**30  # Adam has two moments

    def on_train_batch_end(self, trainer: RunTrainer, pl_module: RunModule, *args: object) -> None:
        for kind, bound in self.bounds.items():
            value = self._value(kind, pl_module.metrics, trainer.is_global_zero)
            if value is None or not self._begins(kind, self._passes(kind, value, bound)):
                continue
            if trainer.is_global_zero:
                print(f"warning: {self._line(kind, value, bound, pl_module.step)}", file=sys.stderr)
            if kind in self.stop:
                pl_module.stop_reason = f"callbacks.health.stop=[{kind}]"

    def _value(self, kind: Kind, metrics: Mapping[str, float], is_rank_0: bool) -> float | None:
        if (value := SIGNS[kind].value) is not None:
            return value(metrics)
        return shutil.disk_usage(self.folder).free / 2**30 - self._checkpoint_gib if is_rank_0 else None

    @staticmethod
    def _passes(kind: Kind, value: float, bound: float) -> bool:
        """Whether a number is on the wrong side of its bound; NaN is."""
        if kind == "dead_reward":
            return value != 0.5
        return not (value >= bound if kind in ("entropy", "disk") else value <= bound)

    def _begins(self, kind: Kind, is_bad: bool) -> bool:
        """Count a step, and say whether it is the one from which the trouble counts as there."""
        memory = self._of_the_machine if kind in OF_THE_MACHINE else self._memory
        said, streak = memory.get(kind, (0, 0))
        if is_bad == bool(said):
            memory[kind] = [said, 0]
            return False
        streak += 1
        if streak < (self.steps if said else self._patience(kind)):
            memory[kind] = [said, streak]
            return False
        memory[kind] = [int(is_bad), 0]
        return is_bad

    def _patience(self, kind: Kind) -> int:
        """Steps in a row that make trouble of a kind."""
        if kind == "dead_reward":
            return int(self.bounds[kind])
        return 1 if kind == "disk" else self.steps

    def _line(self, kind: Kind, value: float, bound: float, step: int) -> str:
        patience = self._patience(kind)
        lasting = f", for {patience} steps" if patience > 1 else ""
        return f"step {step}{lasting}: {SIGNS[kind].text(value)} (callbacks.health.{kind}={bound:g})"
