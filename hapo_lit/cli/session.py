"""What ``hapo train`` and ``hapo fabric`` do before and after the steps: choose the folder, resume, report, export."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from hapo_lit import analysis
from hapo_lit.cli.data_report import print_data_report
from hapo_lit.cli.invocation import job_settings
from hapo_lit.cli.machine import shortage
from hapo_lit.cli.pretrain import cached_base_policy
from hapo_lit.cli.run_folder import folder_to_resume, lock_folder
from hapo_lit.cli.run_record import environment, hardware, record_start
from hapo_lit.cli.settings import lasting_settings
from hapo_lit.errors import MachineError, NotFiniteError, ResumeError, SetupError
from hapo_lit.planning.phase_plan import phase_plans
from hapo_lit.policy.sharding import full_state_dict
from hapo_lit.protocols import HasOpenProbability
from hapo_lit.storage.atomic import appearing
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.callbacks.stop_signals import Stopped
from hapo_lit.training.checkpoint_faults import check
from hapo_lit.training.checkpoint_folder import CheckpointFolder, link_target, step_of
from hapo_lit.training.checkpoint_format import load
from hapo_lit.training.determinism import determinism_restored, without_deterministic_form
from hapo_lit.training.engines import reserve_memory
from hapo_lit.training.export import export
from hapo_lit.training.finite import require_finite
from hapo_lit.training.interfaces import RunData
from hapo_lit.training.module import HapoModule
from hapo_lit.training.rates import rate_warning, training_line
from hapo_lit.training.run_state import restore
from hapo_lit.training.shards import add_tensors
from hapo_lit.training.update_notices import update_notices

RUN_CHOICE_VARIABLE = "HAPO_RUN"
"""Set by rank 0 for its child processes: its pid, the run folder, and the checkpoint if it is chosen already."""


class RunSession:
    """A run's folder, and the checkpoint that it resumes.

    Args:
        config: of the entry point; ``paths.run`` and ``model.path`` are set in it.
        is_rank_0: this process is rank 0, which alone writes.
    """

    def __init__(self, config: DictConfig, is_rank_0: bool) -> None:
        self.config, self.is_rank_0 = config, is_rank_0
        self._environment = environment()  # before the run sets its own
        self.settings = lasting_settings(config)
        if not isinstance(config.paths.run, str):
            raise SetupError(f"paths.run must name the run's folder, got {config.paths.run}: leave it alone")
        if not isinstance(config.resume, str | None):
            raise SetupError(f"resume={config.resume} is no checkpoint: set resume=auto or RUN/checkpoints/last.ckpt")
        choice = json.loads(os.environ.get(RUN_CHOICE_VARIABLE, "null"))
        self._told = choice if choice and choice[0] == os.getppid() and not is_rank_0 else None
        if is_rank_0:
            run = self._open_folder(Path(config.paths.run))
            os.environ[RUN_CHOICE_VARIABLE] = json.dumps([os.getpid(), str(run)])
        else:
            run = Path(self._told[1]) if self._told else self._named_in_settings(Path(config.paths.run))
        self._set(run, None)
        if config.model.path is None:
            config.model.path = str(cached_base_policy(config.paths.cache, config.deterministic))

    def follow_rank_0(self, broadcast: Callable[[Any], Any]) -> None:
        """Take rank 0's folder; a launcher outside has let each rank name one of its own."""
        self._set(Path(broadcast(str(self.run))), None)

    def choose_checkpoint(self) -> None:
        """Find the checkpoint to resume, and check its bytes; to be called before loggers are built.

        Where there is a process group every rank must call it, and each file is read by one of them.  The processes
        that rank 0 starts later take its word.
        """
        checkpoint = None
        if self._told and len(self._told) == 3:
            checkpoint = self._told[2] and Path(self._told[2])
        elif self.config.resume == "auto":
            checkpoint = self._newest()
        elif self.config.resume is not None:
            checkpoint = link_target(Path(self.config.resume).absolute())
            if self.is_rank_0 or dist.is_initialized():  # if rank 0 leaves, so do the others
                with named("resume", self.config.resume):
                    check(checkpoint)
        if self.is_rank_0:
            choice = [os.getpid(), str(self.run), checkpoint and str(checkpoint)]
            os.environ[RUN_CHOICE_VARIABLE] = json.dumps(choice)
        self._set(self.run, checkpoint)

    def _set(self, run: Path, checkpoint: Path | None) -> None:
        self.run, self.checkpoint = run, checkpoint
        self.config.paths.run = str(run)
        if self.config.resume == "auto":  # steps after the checkpoint will be logged once more
            for logger in self.config.logger:
                if "purge_step" in logger:
                    logger.purge_step = 0 if checkpoint is None else step_of(checkpoint) + 1

    def _open_folder(self, run: Path) -> Path:
        """For rank 0: the folder, locked."""
        chosen = self._named_in_settings(run)
        self._lock = lock_folder(chosen)
        if self.config.resume == "auto":
            if chosen != run and run.is_dir() and not any(run.iterdir()):
                run.rmdir()  # Hydra has made it already
        elif CheckpointFolder(run / "checkpoints").steps() or any((run / name).exists() for name in analysis.LOG_FILES):
            raise SetupError(
                f"{run} already holds a run; choose another folder with hydra.run.dir, or resume it with resume=auto"
            )
        return chosen

    def _newest(self) -> Path | None:
        """The newest checkpoint in the folder; rank 0 prints which ones were passed over, and sets them aside."""
        folder = CheckpointFolder(self.run / "checkpoints")
        checkpoint, passed_over = folder.newest()
        if self.is_rank_0 and folder.folder.is_dir():
            folder.tidy(checkpoint)
            for line in passed_over:
                print(line, file=sys.stderr)
        if checkpoint is None and (passed_over or folder.damaged):
            raise SetupError(
                f"every checkpoint in {folder.folder} is damaged ({', '.join(path.name for path in folder.damaged)}"
                f"): begin again in another folder, or delete them to begin again here"
            )
        return checkpoint

    def _named_in_settings(self, run: Path) -> Path:
        """The folder that the settings name."""
        resume = self.config.resume
        if resume not in ("auto", None) and not Path(resume).exists():
            raise SetupError(f"checkpoint {resume!r} does not exist; set resume=auto or RUN/checkpoints/last.ckpt")
        if resume not in ("auto", None) and not (Path(resume).is_file() or Path(resume).is_dir()):
            raise SetupError(f"resume={resume} is a pipe or a device: set resume=auto or RUN/checkpoints/last.ckpt")
        return folder_to_resume(run) if resume == "auto" else run

    def restore(
        self, module: HapoModule, data: RunData, checkpointer: Checkpointer | None, is_sharded: bool = False
    ) -> None:
        """Put module and data where the checkpoint says, and let the run's records end there.

        Args:
            module, data, checkpointer: of the run.
            is_sharded: the module will be, so that shards are left to :func:`~hapo_lit.training.shards.load_shards`.
        """
        in_its_folder = self.config.resume == "auto"
        if checkpointer is not None:
            checkpointer.settings = self.settings
        if self.checkpoint is None:
            if self.is_rank_0 and in_its_folder:
                analysis.carry_over(self.run, self.run, 0)
                print(f"no checkpoint in {self.run}: beginning at step 0")
            return
        state = load(self.checkpoint)
        if (done := state["run"]["step"]) > self.config.steps:
            raise SetupError(f"the checkpoint is at step {done}, beyond steps={self.config.steps}: set more steps")
        if self.checkpoint.is_dir() and not is_sharded:
            add_tensors(state, self.checkpoint)
        restore(state, module, data, None if self.config.allow_changes else self.settings)
        if module.step == self.config.steps and not in_its_folder:
            raise SetupError(
                f"that run is finished (step {module.step} of {self.config.steps}): to train its policy further, set "
                f"more steps, or start a new run with model.path=RUN/policy"
            )
        if checkpointer is not None and in_its_folder:
            checkpointer.resume(state, self.is_rank_0)
        if self.is_rank_0:
            analysis.carry_over(self.checkpoint.parent.parent, self.run, module.step)
            if not in_its_folder:
                CheckpointFolder(self.run / "checkpoints").adopt(self.checkpoint)
            by = f", written by {state['world']} process{'es' if state['world'] > 1 else ''}"
            print(f"resuming after step {module.step} of {self.config.steps} from {self.checkpoint}{by}")

    def begin(self, module: HapoModule, data: RunData, device: str) -> dict[str, float]:
        """Report the data and what is trained, and write down what runs; returns the facts on the data."""
        facts = data.describe()
        reserve_memory(module)
        if self.is_rank_0:
            print_data_report(data, facts)
            print(training_line(module, device, data.world_size))
            lengths = self.config.max_prompt_tokens, self.config.max_response_tokens
            for plan in phase_plans(module, self.config.prompts_per_step, data.world_size, *lengths):
                print(plan.line())
            for notice in update_notices(module, self.config.prompts_per_step):
                print(notice)
            if warning := rate_warning(module):
                print(warning, file=sys.stderr)
            with appearing(self.run / "config.yaml") as draft:
                OmegaConf.save(self.config, draft)
            self._record_start(module, data, device)
            module.policy.config.save_pretrained(self.run / "model")
            if module.policy.generation_config is not None:
                module.policy.generation_config.save_pretrained(self.run / "model")
            module.tokenizer.save_pretrained(self.run / "model")
        return facts

    def _record_start(self, module: HapoModule, data: RunData, device: str) -> None:
        """Write down from what this start can be repeated."""
        contents = {name: value for name, value in data.state_dict().items() if name not in ("consumed", "cursor")}
        record_start(
            self.run,
            ["fabric" if "fabric" in self.config else "train", *job_settings()] if HydraConfig.initialized() else [],
            self._environment,
            contents,
            step=module.step,
            checkpoint=self.checkpoint and str(self.checkpoint),
            hardware=hardware(device, data.world_size),
        )

    @contextmanager
    def training(self, verb: str, module: HapoModule, checkpointer: Checkpointer | None) -> Iterator[None]:
        """Inside, signals stop the run after a checkpoint, and errors wait for the one that is being written."""
        if checkpointer is not None:
            checkpointer.signals.catch()
        try:
            yield
            close_engines(module)
        except Stopped as stopped:
            self._exit(stopped, verb)
        except NotFiniteError as error:
            if error.experience is None:
                raise
            path = self.run / f"not_finite-{module.data.rank}.pt"
            with appearing(path) as draft:
                torch.save({"experience": error.experience, "message": str(error)}, draft)
            module.ranks.barrier()  # a rank that leaves ends the others, so all write first
            raise NotFiniteError(f"{error}; each process's part of the batch is in {path}", error.experience) from error
        except (OSError, RuntimeError) as error:
            if lacking := shortage(error) or without_deterministic_form(error):
                raise MachineError(f"{lacking}; to continue: resume=auto") from error
            raise
        finally:
            if checkpointer is not None:
                checkpointer.settle()
                checkpointer.signals.restore()

    def _exit(self, stopped: Stopped, verb: str) -> NoReturn:
        if self.is_rank_0 and stopped.path is None:
            print(f"stopped by {stopped} before the first step: start it again as you did", flush=True)
        elif self.is_rank_0 and stopped.path is not None:
            folder = f"hydra.run.dir={self.run}"
            if re.search(r"[^\w./=-]", folder):
                folder = shlex.quote(f"hydra.run.dir='{self.run}'")
            where = f"the checkpoint is {stopped.path}"
            command = f"hapo {verb} resume=auto {folder} and the same settings"
            print(f"stopped after step {step_of(stopped.path)} by {stopped}, {where}; to resume: {command}", flush=True)
        raise SystemExit(stopped.status)

    def finish(self, module: HapoModule, data: RunData, facts: dict[str, float]) -> float:
        """Export the policy and print the summary; returns sampled accuracy, on rank 0.

        Collective: every rank must call it.
        """
        require_finite(module, trained=False)
        weights = full_state_dict(module.policy.state_dict(), keep=self.is_rank_0)
        if not self.is_rank_0:
            return float("nan")
        lora, prompts = self.config.model.get("lora"), [data.sample()[0]]
        if otherwise := export(weights, self.run / "model", lora, self.run / "policy", prompts):
            print(f"warning: {otherwise}", file=sys.stderr)
        summary = analysis.summarise(self.run, facts)
        analysis.print_summary(summary)
        metrics = analysis.read_metrics(self.run)
        if skipped := int(metrics["update/skipped"].sum()) if "update/skipped" in metrics else 0:
            print(
                f"warning: {skipped:,} updates were skipped, since loss or gradient was not finite: lower "
                f"learning_rate, bound the ratios (loss=dual_clip), or look at terms of your own",
                file=sys.stderr,
            )
        gate = module.phases.at(self.config.steps - 1).algorithm.gate
        if isinstance(gate, HasOpenProbability) and (self.run / "groups.csv").exists():
            report = analysis.write_injection(self.run, gate.open_probability)
            if len(report):
                analysis.print_injection(report)
        print(f"curves: {analysis.plot_anneal(self.run)}")
        print(f"run folder: {self.run} (tensorboard --logdir {self.run})")
        return summary.get("sampled_after", float("nan"))


@contextmanager
def named(key: str, value: object) -> Iterator[None]:
    """Inside, what is wrong with a checkpoint begins with the setting that chose it."""
    try:
        yield
    except ResumeError as error:
        raise ResumeError(f"{key}={value}: {error}") from error


def close_engines(module: HapoModule) -> None:
    """End what a run's engines have started, which may use the process group."""
    for phase in module.phases:
        phase.algorithm.close()
    for evaluator in module.evaluation.evaluators.values():
        evaluator.engine.close()


def is_rank_0() -> bool:
    """Whether this process is rank 0, as the environment says, before any process group exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def isolated_job() -> Iterator[None]:
    """Afterwards environment, process group and torch's choice of algorithms are as before: a sweep may run several
    jobs in one process."""
    before = dict(os.environ)
    try:
        with determinism_restored():
            yield
        if dist.is_initialized():
            dist.destroy_process_group()
    finally:
        os.environ.clear()
        os.environ.update(before)
