"""Optuna's studies under Hydra: a trial that does worse than its predecessors did ends early, and is told as pruned.

Hydra's sweeper hands a job numbers, not its trial, and tells the study one value per trial at its end.  So the job
finds its trial in the study by those numbers and reports to it on the way, and the study's storage knows of a trial
that was pruned when the sweeper tells of it as complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from optuna.storages import RDBStorage, _CachedStorage
from optuna.trial import Trial, TrialState

from hapo_lit.cli.sweeps import PRUNED, Pruned
from hapo_lit.errors import SetupError

MARK = "pruned"
"""A trial's attribute, set by its job."""


class Storage(_CachedStorage):
    """A study's tables, in which a trial that its job has marked as pruned ends as pruned.

    Args:
        url: of the database, ``sqlite:///study.db``.
    """

    def __init__(self, url: str) -> None:
        self.tables = RDBStorage(url)
        super().__init__(self.tables)

    def set_trial_state(self, trial_id: int, state: TrialState) -> bool:
        if state is TrialState.COMPLETE and MARK in self.tables.get_trial(trial_id).user_attrs:
            state = TrialState.PRUNED
        return super().set_trial_state(trial_id, state)


class Prune(Callback):
    """Reports held-out accuracy to the job's trial at each evaluation, and ends the job if the pruner says so.

    The evaluation before training and the one after the last step decide nothing.

    Args:
        pruner: Optuna's.
        metric: the held-out number that the study is about.
    """

    def __init__(self, pruner: optuna.pruners.BasePruner, metric: str = "heldout/sampled") -> None:
        self.pruner, self.metric = pruner, metric
        self._trial: Trial | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Raises ``SetupError`` on every rank if the job is no trial of a study in tables."""
        address()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Raises :class:`Pruned` on every rank."""
        step, pruned = pl_module.step, False
        if not 0 < step < pl_module.phases.steps or self.metric not in pl_module.heldout:
            return
        value = pl_module.heldout[self.metric]
        if trainer.is_global_zero:
            self._trial = self._trial or trial_of_this_job(self.pruner)
            self._trial.report(value, step)
            pruned = self._trial.should_prune()
            if pruned:
                self._trial.set_user_attr(MARK, True)
                line = f"pruned after step {step} of {pl_module.phases.steps}: {self.metric} was {value:.3f}"
                (Path(HydraConfig.get().runtime.output_dir) / PRUNED).write_text(f"{line}\n")
                print(line, flush=True)
        if pl_module.ranks.max(int(pruned)):
            raise Pruned(value)


def address() -> tuple[str, str]:
    """Name and database of the study of this sweep.

    Raises:
        SetupError: it has none.
    """
    sweeper = HydraConfig.get().sweeper
    storage = sweeper.get("storage")
    if not isinstance(storage, DictConfig) or "url" not in storage:
        raise SetupError("a pruner needs a study in tables: use sweep=gate_optuna, or leave callbacks.pruner out")
    return str(sweeper.study_name), str(storage.url)


def trial_of_this_job(pruner: optuna.pruners.BasePruner) -> Trial:
    """The running trial of the sweep's study that drew this job's settings.

    Raises:
        SetupError: there is none.
    """
    (name, url), settings = address(), set(HydraConfig.get().overrides.task)
    study = optuna.load_study(name, Storage(url), pruner=pruner)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    own = [each for each in running if {f"{key}={value}" for key, value in each.params.items()} <= settings]
    if not own:
        raise SetupError(f"no running trial of study {name!r} in {url} has this job's settings")
    return Trial(study, own[-1]._trial_id)
