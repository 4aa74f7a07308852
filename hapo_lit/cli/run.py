"""What both doors to training do before and after the steps: find the run's folder, go on from a state, report."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from hapo_lit import analysis
from hapo_lit.callbacks import KeepStates, Stopped
from hapo_lit.checkpoint import StateFolder, changed, export, load, read, restore, step_of
from hapo_lit.cli.light import PROGRAM, SetupError, cut
from hapo_lit.cli.pretrain import cached_base_policy
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
        self.first = first
        self.settings = flat(config)
        if not first and SHARED_FOLDER in os.environ:
            config.paths.run = os.environ[SHARED_FOLDER]
        elif config.resume == "auto":
            config.paths.run = str(_folder_to_go_on_in(Path(config.paths.run)))
        self.run = Path(config.paths.run)
        self.path = self._state(config)
        if first:
            os.environ[SHARED_FOLDER] = str(self.run)
        if config.model.path is None:
            config.model.path = str(cached_base_policy())

    def _state(self, config: DictConfig) -> Path | None:
        folder = StateFolder(self.run / "checkpoints")
        if config.resume == "auto":
            if self.first:
                for line in folder.tidy():
                    print(line, file=sys.stderr)
            return folder.newest()[0]
        if self.first and ((self.run / "metrics.csv").exists() or folder.steps()):
            raise SetupError(
                f"{self.run} already holds a run; choose another folder with hydra.run.dir, or go on in it with "
                f"resume=auto"
            )
        if config.resume is not None and not Path(config.resume).exists():
            raise SetupError(f"state {config.resume!r} does not exist; set resume=auto or RUN/checkpoints/last.ckpt")
        return None if config.resume is None else Path(config.resume).resolve()

    def take_up(self, config: DictConfig, module: Any, data: Any, keeper: KeepStates | None) -> None:
        """Put module and data where the state says; tell the records of the run from there."""
        if keeper is not None:
            keeper.settings = self.settings
        if self.path is None:
            if self.first and config.resume == "auto":
                analysis.carry_over(self.run, self.run, 0)
            return
        state = load(self.path) if config.resume == "auto" else read(self.path)
        restore(state, module, data)
        different = changed(state["settings"], self.settings)
        if different and not config.allow_changes:
            raise SetupError(
                f"settings differ from those of the state ({'; '.join(different)}): go on with the same ones, start a "
                f"new run, or set allow_changes=true"
            )
        if module.step == config.steps and config.resume != "auto":
            raise SetupError(
                f"that run is finished (step {module.step} of {config.steps}): to train its policy further, start a "
                f"new run with model.path=RUN/policy"
            )
        if keeper is not None and config.resume == "auto":
            keeper.goes_on(state)
        if self.first:
            self.run.mkdir(parents=True, exist_ok=True)
            analysis.carry_over(self.path.parent.parent, self.run, module.step)
            by = f", written by {state['world']} process{'es' if state['world'] > 1 else ''}"
            print(f"going on after step {module.step} of {config.steps} from {self.path}{by}")

    def begin(self, config: DictConfig, module: Any, data: Any) -> dict[str, float]:
        """Report the data and write down what runs; returns the facts on the data."""
        facts: dict[str, float] = data.describe()
        if self.first:
            report_data(data, facts)
            self.run.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, self.run / "config.yaml")
            module.policy.config.save_pretrained(self.run / "model")
            if module.policy.generation_config is not None:
                module.policy.generation_config.save_pretrained(self.run / "model")
            module.tokenizer.save_pretrained(self.run / "model")
        return facts

    def finish(self, config: DictConfig, module: Any, facts: dict[str, float]) -> float:
        """Write the policy and what became of the run; returns sampled accuracy.  Every rank must ask."""
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
    """The folder itself if it was chosen; otherwise the newest that an earlier run of the same experiment left."""
    chosen = any(setting.startswith("hydra.run.dir=") for setting in HydraConfig.get().overrides.hydra)
    if chosen or not run.parent.is_dir():
        return run
    earlier = sorted(each for each in run.parent.iterdir() if each != run and (each / "config.yaml").is_file())
    if earlier and run.is_dir() and not any(run.iterdir()):
        run.rmdir()  # Hydra has made it already
    return earlier[-1] if earlier else run


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


def keeper_among(callbacks: list[Any]) -> KeepStates | None:
    """The callback that saves states, if there is one."""
    return next((each for each in callbacks if isinstance(each, KeepStates)), None)


def let_twins_start(verb: str) -> None:
    """Make ``sys.argv`` the command that Lightning's launcher starts further processes with: this very job."""
    settings = list(HydraConfig.get().overrides.task)
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
