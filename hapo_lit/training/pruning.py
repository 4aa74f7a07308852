"""Pruning in Optuna's studies under Hydra: a trial that does worse than earlier ones ends early and counts as pruned.

Hydra's sweeper gives a job its settings and not its trial, and reports one value for each trial, at its end.  So the
job finds its trial in the study by those settings and reports intermediate values itself.  When the sweeper reports a
pruned trial as complete, the study's storage stores it as pruned.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.storages import RDBStorage, _CachedStorage
from optuna.trial import Trial, TrialState

from hapo_lit.errors import Pruned, SetupError
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer

MARK = "pruned"
"""The attribute of a trial that its job sets when it is pruned."""


class Storage(_CachedStorage):
    """A study's database, in which a trial that its job has marked as pruned ends as pruned.

    Args:
        url: address of the database, ``sqlite:///study.db``.
    """

    def __init__(self, url: str) -> None:
        self.tables = RDBStorage(url)
        super().__init__(self.tables)

    def set_trial_state(self, trial_id: int, state: TrialState) -> bool:
        if state is TrialState.COMPLETE and MARK in self.tables.get_trial(trial_id).user_attrs:
            state = TrialState.PRUNED
        return super().set_trial_state(trial_id, state)


class Prune(RunCallback):
    """Reports held-out accuracy to the job's trial at each evaluation, and ends the job if the pruner says so.

    The evaluation before training and the one after the last step decide nothing.

    Args:
        pruner: Optuna's.
        study: name of the sweep's study.
        storage: address of its database; None = the sweep has no study in tables.
        settings: this job's, each ``key=value``.
        metric: the held-out number that the study is about.
    """

    def __init__(
        self,
        pruner: optuna.pruners.BasePruner,
        study: str = "",
        storage: str | None = None,
        settings: Sequence[str] = (),
        metric: str = "heldout/sampled",
    ) -> None:
        self.pruner, self.metric = pruner, metric
        self.study, self.storage, self.settings = study, storage, frozenset(settings)
        self._trial: Trial | None = None

    def on_fit_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        """Raises ``SetupError`` on every rank if the job is no trial of a study in tables."""
        if self.storage is None:
            raise SetupError("a pruner needs a study in tables: use sweep=gate_optuna, or leave callbacks.pruner out")

    def on_validation_end(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        """Raises :class:`~hapo_lit.errors.Pruned` on every rank."""
        step, pruned = pl_module.step, False
        if not 0 < step < pl_module.phases.steps or self.metric not in pl_module.heldout:
            return
        value = pl_module.heldout[self.metric]
        if trainer.is_global_zero:
            self._trial = self._trial or self._find_trial()
            self._trial.report(value, step)
            pruned = self._trial.should_prune()
            if pruned:
                self._trial.set_user_attr(MARK, True)
        if pl_module.ranks.max(int(pruned)):
            message = f"pruned after step {step} of {pl_module.phases.steps}: {self.metric} was {value:.3f}"
            raise Pruned(message, value)

    def _find_trial(self) -> Trial:
        """The running trial of the study that drew this job's settings.

        Raises:
            SetupError: there is none.
        """
        assert self.storage is not None
        study = optuna.load_study(self.study, Storage(self.storage), pruner=self.pruner)
        for trial in reversed(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
            if {f"{key}={value}" for key, value in trial.params.items()} <= self.settings:
                return Trial(study, trial._trial_id)
        raise SetupError(f"no running trial of study {self.study!r} in {self.storage} has this job's settings")
