"""What both doors to training do before and after the steps: find the run's folder, go on from a state, report."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from hapo_lit import analysis
from hapo_lit.cli.pretrain import cached_base_policy
from hapo_lit.cli.setup import setting_up
from hapo_lit.errors import NotFiniteError, SetupError, cut
from hapo_lit.policy.model_config import check_lengths
from hapo_lit.policy.sharding import full_state_dict
from hapo_lit.protocols import HasOpenProbability
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.callbacks.log_metrics import LogMetrics
from hapo_lit.training.callbacks.stop_signals import Stopped
from hapo_lit.training.checkpoint_folder import CheckpointFolder, link_target, step_of
from hapo_lit.training.checkpoint_format import load, load_checked
from hapo_lit.training.export import export
from hapo_lit.training.run_state import restore

DATA_LINE = (
    "data: {size}, {heldout_problems} held out, {prompt_too_long} prompts too long; teachers{of}: "
    "{teacher_usable} usable, {teacher_rejected} rejected, {teacher_too_long} too long, {teacher_absent} absent"
)
TOLD = "HAPO_RUN"
"""Environment variable in which the first process tells those that it starts where the run lies and from which state it
goes on."""
PRECISIONS = ("32-true", "bf16-mixed")
"""In 16-mixed gradients would be clipped before they are unscaled, in bf16-true weights and rewards be rounded."""
PLACES = ("urls", "anywhere", "transfer", "exchange", "timeout", "port", "gpu_memory_utilization", "sleep", "options")
"""Settings of engines that say where and with what means they run."""
FREE = {
    *("resume", "allow_changes", "paths", "hydra", "trainer", "fabric", "threads", "eval_every", "save_every"),
    *("save_minutes", "consistency_every", "callbacks", "logger", "evaluators", "model.path", "model.shape"),
    *("data.workers", "precision", *(f"rollout.{name}" for name in PLACES)),
    *("model.gradient_checkpointing", "module.micro_batch_size", "module.max_skipped", "verifier.workers"),
}
"""Settings that may differ when a run goes on: they change where, how fast and how often, and nothing it learns."""


class RunSession:
    """Where a run lies, and the state that it goes on from.

    Args:
        config: of the door; ``paths.run`` and ``model.path`` are set in it.
        first: this is rank 0, which alone writes.
    """

    def __init__(self, config: DictConfig, first: bool) -> None:
        self.config, self.first = config, first
        self.settings = flat(config)
        if not isinstance(config.resume, str | None):
            raise SetupError(f"resume={config.resume} is no state: set resume=auto or RUN/checkpoints/last.ckpt")
        told = json.loads(os.environ.get(TOLD, "null"))
        if first:
            run, path = self._find(Path(config.paths.run))
            os.environ[TOLD] = json.dumps([os.getpid(), str(run), path and str(path)])
        elif told and told[0] == os.getppid():
            run, path = Path(told[1]), told[2] and Path(told[2])
        else:
            run, path = self._chosen(Path(config.paths.run))
        self._set(run, path)
        if config.model.path is None:
            config.model.path = str(cached_base_policy())

    def agree(self, broadcast: Callable[[Any], Any]) -> None:
        """Every rank takes rank 0's word: started from outside, each has named a folder of its own."""
        run, path = broadcast((str(self.run), self.path and str(self.path)))
        self._set(Path(run), path and Path(path))

    def _set(self, run: Path, path: Path | None) -> None:
        self.run, self.path = run, path
        self.config.paths.run = str(run)
        if self.config.resume == "auto":  # what TensorBoard was told after the state, it will be told again
            for logger in self.config.logger:
                if "purge_step" in logger:
                    logger.purge_step = 0 if path is None else step_of(path) + 1

    def _find(self, run: Path) -> tuple[Path, Path | None]:
        """For rank 0: the folder, locked, and the state; says what was passed over."""
        chosen, path = self._chosen(run)
        self._lock = alone_in(chosen)
        folder = CheckpointFolder(chosen / "checkpoints")
        if self.config.resume == "auto":
            if chosen != run and run.is_dir() and not any(run.iterdir()):
                run.rmdir()  # Hydra has made it already
            path, passed = folder.tidy() if folder.folder.is_dir() else (None, [])
            for line in passed:
                print(line, file=sys.stderr)
            if path is None and folder.damaged:
                raise SetupError(
                    f"every state in {folder.folder} is damaged ({', '.join(each.name for each in folder.damaged)}): "
                    f"begin again in another folder, or delete them to begin again here"
                )
        elif folder.steps() or any((chosen / name).exists() for name in analysis.LOG_FILES):
            raise SetupError(
                f"{run} already holds a run; choose another folder with hydra.run.dir, or go on in it with resume=auto"
            )
        return chosen, path

    def _chosen(self, run: Path) -> tuple[Path, Path | None]:
        """What the settings say."""
        resume = self.config.resume
        if resume == "auto":
            run = _folder_to_go_on_in(run)
            return run, CheckpointFolder(run / "checkpoints").newest()[0] if not self.first else None
        if resume is not None and not Path(resume).exists():
            raise SetupError(f"state {resume!r} does not exist; set resume=auto or RUN/checkpoints/last.ckpt")
        return run, None if resume is None else link_target(Path(resume).absolute())

    def take_up(self, module: Any, data: Any, keeper: Checkpointer | None) -> None:
        """Put module and data where the state says; tell the records of the run from there."""
        config, again = self.config, self.config.resume == "auto"
        if keeper is not None:
            keeper.settings = self.settings
        if self.path is None:
            if self.first and again:
                analysis.carry_over(self.run, self.run, 0)
                print(f"no state to go on from in {self.run}: beginning at step 0")
            return
        state = load(self.path) if again else load_checked(self.path)
        restore(state, module, data, None if config.allow_changes else self.settings)
        if module.step == config.steps and not again:
            raise SetupError(
                f"that run is finished (step {module.step} of {config.steps}): to train its policy further, start a "
                f"new run with model.path=RUN/policy"
            )
        if keeper is not None and again:
            keeper.resume(state, self.first)
        if self.first:
            analysis.carry_over(self.path.parent.parent, self.run, module.step)
            if not again:
                CheckpointFolder(self.run / "checkpoints").adopt(self.path)
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
        weights = full_state_dict(module.policy.state_dict(), keep=self.first)
        if not self.first:
            return float("nan")
        export(weights, self.run / "model", config.model.get("lora"), self.run / "policy")
        summary = analysis.summarise(self.run, facts)
        analysis.print_summary(summary)
        gate = getattr(module.phases.at(config.steps - 1).algorithm, "gate", None)
        if isinstance(gate, HasOpenProbability) and (self.run / "groups.csv").exists():
            report = analysis.write_injection(self.run, gate.open_probability)
            if len(report):
                analysis.print_injection(report)
        print(f"curves: {analysis.plot_anneal(self.run)}")
        print(f"run folder: {self.run} (tensorboard --logdir {self.run})")
        return summary.get("sampled_after", float("nan"))

    @contextmanager
    def guarded(self, verb: str, module: Any, keeper: Checkpointer | None) -> Iterator[None]:
        """Inside, signals are heard, and what ends a run early is said with the way on."""
        if keeper is not None:
            keeper.signals.catch()
        try:
            yield
        except Stopped as stopped:
            self._leave(stopped, verb)
        except NotFiniteError as error:
            path = self.run / f"not_finite-{module.data.rank}.pt"
            _write_whole({"experience": error.experience, "message": str(error)}, path)
            module.ranks.barrier()  # nobody leaves, and takes the others along, before all have written
            raise NotFiniteError(f"{error}; each process's part of the batch is in {path}", error.experience) from error
        finally:
            if keeper is not None:
                keeper.signals.restore()

    def _leave(self, stopped: Stopped, verb: str) -> NoReturn:
        if self.first and stopped.path is None:
            print(f"stopped by {stopped} before the first step: start it again as you did", flush=True)
        elif self.first and stopped.path is not None:
            folder = f"hydra.run.dir={self.run}"
            if re.search(r"[^\w./=-]", folder):
                folder = shlex.quote(f"hydra.run.dir='{self.run}'")
            where = f"the state is in {stopped.path}"
            on = f"hapo {verb} resume=auto {folder} and the same settings"
            print(f"stopped after step {step_of(stopped.path)} by {stopped}, {where}; to go on: {on}", flush=True)
        raise SystemExit(stopped.status)


def _write_whole(content: Any, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    torch.save(content, unfinished)
    os.replace(unfinished, path)


def _folder_to_go_on_in(run: Path) -> Path:
    """The folder itself if it was chosen; otherwise the newest that an earlier run of the same experiment left."""
    hydra = HydraConfig.get()
    settings = [each.lstrip("+~") for each in hydra.overrides.hydra]
    chosen = any(each.startswith("hydra.run.dir=") for each in settings) or hydra.mode != RunMode.RUN
    if chosen or run != Path(hydra.runtime.output_dir) or not run.parent.is_dir():
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


def keeper_among(callbacks: list[Any]) -> Checkpointer | None:
    """The callback that saves states, if there is one."""
    return next((each for each in callbacks if isinstance(each, Checkpointer)), None)


@contextmanager
def one_job() -> Iterator[None]:
    """Afterwards environment and process group are as before: a sweep may run several jobs in one process."""
    before = dict(os.environ)
    try:
        yield
        if "hapo_lit.rollout.vllm" in sys.modules:  # whose engine is in that group
            sys.modules["hapo_lit.rollout.vllm"].close()
        if dist.is_initialized():
            dist.destroy_process_group()
    finally:
        os.environ.clear()
        os.environ.update(before)


def must_record(config: DictConfig, world: int, loggers: list[Any], callbacks: list[Any]) -> None:
    """Refuse settings under which a run would end without its summary, or not mean what they say."""
    if not any(isinstance(logger, CSVLogger) for logger in loggers):
        raise SetupError("the summary is made from metrics.csv: keep a CSVLogger in logger (logger=default)")
    if not any(isinstance(callback, LogMetrics) for callback in callbacks):
        raise SetupError("the summary is made from metrics.csv: keep callbacks.metrics (callbacks=default)")
    keeper = keeper_among(callbacks)
    best = sorted(f"heldout/{name}" for name in config.evaluators)
    if keeper is not None and keeper.best not in (None, *best):
        raise SetupError(
            f"callbacks.checkpointer.best={keeper.best} is not measured; there are: {', '.join(best)} and null"
        )
    if config.consistency_every is not None and world > 1:
        raise SetupError("consistency_every measures the gradient of one process: leave it null with several")


def must_fit_lengths(module: Any, config: DictConfig) -> None:
    """Refuse prompts and responses that the model has no positions for."""
    with setting_up():
        check_lengths(module.policy.config, config.max_prompt_tokens, config.max_response_tokens)


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
