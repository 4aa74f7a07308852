"""What both doors to training do before and after the steps: find the run's folder, go on from a state, report."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import to_absolute_path
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from hapo_lit import analysis
from hapo_lit.callbacks import KeepStates, Stopped
from hapo_lit.checkpoint import StateFolder, export, load, read, restore, step_of
from hapo_lit.cli.light import PROGRAM, SetupError, cut
from hapo_lit.cli.pretrain import cached_base_policy
from hapo_lit.cli.sweeps import sweeping
from hapo_lit.protocols import Lawful
from hapo_lit.sharding import whole
from hapo_lit.types import NotFiniteError

DATA_LINE = (
    "data: {size}, {heldout_problems} held out, {prompt_too_long} prompts too long; teachers{of}: "
    "{teacher_usable} usable, {teacher_rejected} rejected, {teacher_too_long} too long, {teacher_absent} absent"
)
SHARED_FOLDER = "HAPO_RUN"
"""Environment variable in which the first process tells those it starts where the run lies."""
FREE = {
    *("resume", "allow_changes", "paths", "hydra", "trainer", "fabric", "threads", "eval_every", "save_every"),
    *("save_minutes", "consistency_every", "callbacks", "logger", "evaluators", "model.path", "data.workers"),
    *("model.gradient_checkpointing", "module.micro_batch_size", "module.max_skipped", "verifier.workers"),
}
"""Settings that may differ when a run goes on: they change where, how fast and how often, and nothing it learns."""


class Opening:
    """Where a run lies, and the state that it goes on from.

    Args:
        config: of the door; ``paths.run`` and ``model.path`` are set in it.
        first: this is rank 0, which alone writes.
    """

    def __init__(self, config: DictConfig, first: bool) -> None:
        self.config, self.first = config, first
        self.settings = flat(config)
        run, self.path = Path(os.environ.get(SHARED_FOLDER, config.paths.run)), None
        if first:
            run, self.path = self._find(Path(config.paths.run))
            os.environ[SHARED_FOLDER] = str(run)
            self._lock = alone_in(run)
        elif config.resume == "auto":
            self.path = StateFolder(_folder_to_go_on_in(run) / "checkpoints").newest()[0]
        elif config.resume is not None:
            self.path = Path(config.resume).resolve()
        self._set(run)
        if config.model.path is None:
            config.model.path = str(cached_base_policy())

    def agree(self, broadcast: Callable[[Any], Any]) -> None:
        """Every rank takes rank 0's word: started from outside, each has named a folder of its own."""
        run, path = broadcast((str(self.run), self.path and str(self.path)))
        self.path = Path(path) if path else None
        self._set(Path(run))

    def _set(self, run: Path) -> None:
        self.run = run
        self.config.paths.run = str(run)
        if self.config.resume == "auto":  # what TensorBoard was told after the state, it will be told again
            for logger in self.config.logger:
                if "purge_step" in logger:
                    logger.purge_step = step_of(self.path) + 1 if self.path is not None else 0

    def _find(self, run: Path) -> tuple[Path, Path | None]:
        resume = self.config.resume
        if resume == "auto":
            chosen = _folder_to_go_on_in(run)
            if chosen != run and run.is_dir() and not any(run.iterdir()):
                run.rmdir()  # Hydra has made it already
            path, passed = StateFolder(chosen / "checkpoints").tidy()
            for line in passed:
                print(line, file=sys.stderr)
            return chosen, path
        if (run / "metrics.csv").exists() or StateFolder(run / "checkpoints").steps():
            raise SetupError(
                f"{run} already holds a run; choose another folder with hydra.run.dir, or go on in it with resume=auto"
            )
        if resume is not None and not Path(resume).exists():
            raise SetupError(f"state {resume!r} does not exist; set resume=auto or RUN/checkpoints/last.ckpt")
        return run, None if resume is None else Path(resume).resolve()

    def take_up(self, module: Any, data: Any, keeper: KeepStates | None) -> None:
        """Put module and data where the state says; tell the records of the run from there."""
        config = self.config
        if keeper is not None:
            keeper.settings = self.settings
        if self.path is None:
            if self.first and config.resume == "auto":
                analysis.carry_over(self.run, self.run, 0)
            return
        state = load(self.path) if config.resume == "auto" else read(self.path)
        restore(state, module, data, None if config.allow_changes else self.settings)
        if module.step == config.steps and config.resume != "auto":
            raise SetupError(
                f"that run is finished (step {module.step} of {config.steps}): to train its policy further, start a "
                f"new run with model.path=RUN/policy"
            )
        if keeper is not None and config.resume == "auto":
            keeper.goes_on(state)
        if self.first:
            analysis.carry_over(self.path.parent.parent, self.run, module.step)
            by = f", written by {state['world']} process{'es' if state['world'] > 1 else ''}"
            print(f"going on after step {module.step} of {config.steps} from {self.path}{by}")

    def begin(self, module: Any, data: Any) -> dict[str, float]:
        """Report the data and write down what runs; returns the facts on the data."""
        facts: dict[str, float] = data.describe()
        if self.first:
            report_data(data, facts)
            OmegaConf.save(self.config, self.run / "config.yaml")
            module.policy.config.save_pretrained(self.run / "model")
            if module.policy.generation_config is not None:
                module.policy.generation_config.save_pretrained(self.run / "model")
            module.tokenizer.save_pretrained(self.run / "model")
        return facts

    def finish(self, module: Any, facts: dict[str, float]) -> float:
        """Write the policy and what became of the run; returns sampled accuracy.  Every rank must ask."""
        config = self.config
        weights = whole(module.policy.state_dict(), keep=self.first)
        if not self.first:
            return float("nan")
        export(weights, self.run / "model", config.model.get("lora"), self.run / "policy")
        summary = analysis.summarise(self.run, facts)
        analysis.show(summary)
        gate = getattr(module.phases.at(config.steps - 1).algorithm, "gate", None)
        if isinstance(gate, Lawful) and (self.run / "groups.csv").exists():
            report = analysis.injection_by_pass_rate(self.run, gate.chance)
            if len(report):
                analysis.show_injection(report)
        print(f"curves: {analysis.plot_anneal(self.run)}")
        print(f"run folder: {self.run} (tensorboard --logdir {self.run})")
        return summary.get("sampled_after", float("nan"))

    @contextmanager
    def guarded(self, verb: str) -> Iterator[None]:
        """Inside, what ends a run early is said with the way on."""
        try:
            yield
        except Stopped as stopped:
            self._leave(stopped, verb)
        except NotFiniteError as error:
            path = self.run / "not_finite.pt"
            if self.first:
                torch.save({"experience": error.experience, "message": str(error)}, path)
            raise NotFiniteError(f"{error}; the batch is in {path}", error.experience) from error

    def _leave(self, stopped: Stopped, verb: str) -> NoReturn:
        if self.first:
            on = f"hapo {verb} resume=auto hydra.run.dir={self.run} and the same settings"
            print(f"stopped after step {step_of(stopped.path)} by {stopped}; to go on: {on}", flush=True)
        raise SystemExit(stopped.status)


def _folder_to_go_on_in(run: Path) -> Path:
    """The folder itself if it was chosen or is a sweep's; otherwise the newest that a run of the experiment left."""
    chosen = any(setting.startswith("hydra.run.dir=") for setting in HydraConfig.get().overrides.hydra)
    if chosen or sweeping() or not run.parent.is_dir():
        return run
    earlier = sorted(each for each in run.parent.iterdir() if each != run and (each / "config.yaml").is_file())
    return earlier[-1] if earlier else run


def alone_in(run: Path) -> IO[bytes]:
    """A lock on a run's folder, which ends with the process however that ends; keep it."""
    run.mkdir(parents=True, exist_ok=True)
    file = (run / ".lock").open("wb")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise SetupError(f"another process is training in {run}: wait for it, or choose another folder") from error
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
            raise
    return file


def flat(config: DictConfig) -> dict[str, Any]:
    """``a.b: value`` for all settings that decide what a run learns; references stay references."""

    def walk(node: Any, where: str) -> Iterator[tuple[str, Any]]:
        if where in FREE:
            return
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{where}.{key}" if where else str(key))
        else:
            yield where, node

    return dict(walk(OmegaConf.to_container(config, resolve=False), ""))


def first_process() -> bool:
    """Whether this is rank 0, as the environment says, before any process group exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


def keeper_among(callbacks: list[Any]) -> KeepStates | None:
    """The callback that saves states, if there is one."""
    return next((each for each in callbacks if isinstance(each, KeepStates)), None)


def let_twins_start(verb: str) -> None:
    """Make ``sys.argv`` the command that Lightning's launcher starts further processes with: this very job."""
    settings = [each for each in HydraConfig.get().overrides.task if not each.startswith("sweep=")]
    sys.argv = [to_absolute_path(PROGRAM), verb, *settings]


def report_data(data: Any, facts: dict[str, float]) -> None:
    """Print what the data are."""
    judged = sum(facts[f"teacher_{fate}"] for fate in ("usable", "rejected", "too_long", "absent"))
    size = f"{facts['train_problems']:,.0f} problems" if facts["train_problems"] else "a stream of problems"
    part = "" if judged == facts["train_problems"] else f" of {judged} looked at"
    print(DATA_LINE.format(size=size, of=part, **facts))
    if dropped := data.dropped():
        print(f"rows: {dropped}")
    if not facts["teacher_usable"]:
        print("warning: no teacher can be used, so nothing will ever be injected or imitated", file=sys.stderr)
    prompt, teacher = data.sample()
    print(f"a prompt: {shortened(prompt)}\nits teacher: {shortened(teacher)}")


def shortened(text: str, length: int = 300) -> str:
    """A text on one line, its middle left out if it is long."""
    return cut(repr(text), length)
