"""Phases: which algorithm and loss act at which step.

A run is a sequence of phases with a step budget each.  Most have one; "SFT, then GRPO" has two.  A phase brings its
own learning-rate schedule, over its own steps, and says whether it starts with a fresh optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hapo_lit.contracts import check_part
from hapo_lit.errors import PartError, ResumeError, part_name
from hapo_lit.protocols import Algorithm, PolicyLoss
from hapo_lit.schedules import Schedule, StepSchedule, some_steps, step_schedules


class Phase:
    """One algorithm with its loss and learning rate.

    Args:
        algorithm: turns prompts into experience.
        loss: turns experience into a loss.
        learning_rate: schedule over ``learning_rate_steps``, and its last value after them.
        learning_rate_steps: from the phase's first; None = as many as the phase has.
        steps: the phase's budget; None = all that the run has left (last phase only).
        fresh_optimizer: True = the optimiser forgets its moments when the phase begins.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        loss: PolicyLoss,
        learning_rate: Schedule,
        steps: int | None = None,
        fresh_optimizer: bool = True,
        learning_rate_steps: int | None = None,
    ) -> None:
        check_part("algorithm", algorithm, Algorithm)
        check_part("loss", loss, PolicyLoss)
        check_rate(learning_rate)
        if learning_rate_steps is not None and (type(learning_rate_steps) is not int or learning_rate_steps < 1):
            raise ValueError(
                f"learning_rate_steps must be a whole number of at least 1, or null, got {learning_rate_steps!r}"
            )
        if algorithm.teacher_stands_alone and loss.teacher.needs_advantage:
            raise ValueError(
                f"{type(loss.teacher).__name__} weighs a teacher by its advantage, and this injector leaves it none: "
                f"set teacher=nll or another injector"
            )
        if loss.teacher.needs_confidence and not algorithm.estimates:
            raise ValueError(
                f"{type(loss.teacher).__name__} weighs a teacher by the gate's estimate of the success rate, and there "
                f"is none: set gate=beta or another teacher"
            )
        self.algorithm, self.loss = algorithm, loss
        self.learning_rate, self.steps = learning_rate, steps
        self.learning_rate_steps = learning_rate_steps
        self.fresh_optimizer = fresh_optimizer


def check_rate(schedule: Schedule) -> None:
    """Whether a schedule gives learning rates.

    Raises:
        PartError: it cannot be called with the share of the steps that are done, or gives no rate.
    """
    rate = schedule(0.0) if callable(schedule) else None
    if not _is_rate(rate):
        raise PartError(
            f"learning_rate: {part_name(schedule)}.__call__ must take the share of the steps that are done, such as "
            f"0.0, and return a finite rate of 0 or more; it returned {rate!r}"
        )


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


class Phases:
    """Phases in order over ``steps`` training steps.

    Args:
        steps: of the whole run.
        sequence: name -> phase, in order.

    Raises:
        ValueError: the budgets do not fit ``steps``.
        PartError: a learning rate is no finite number of 0 or more.
    """

    def __init__(self, steps: int, sequence: Mapping[str, Phase]) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
        self.steps = steps
        self._phases = list(sequence.values())
        budgets = {name: phase.steps for name, phase in sequence.items()}
        fixed = [budget for budget in budgets.values() if budget is not None]
        self._starts = [sum(fixed[:index]) for index in range(len(self._phases))]
        open_end = bool(self._phases) and self._phases[-1].steps is None
        if len(self._phases) - len(fixed) != open_end or not (sum(fixed) < steps if open_end else sum(fixed) == steps):
            raise ValueError(
                f"phases {budgets} do not add up to steps={steps}: change steps or phases.sequence.NAME.steps, or "
                f"leave the last one's open (null)"
            )
        for phase, own in self.with_steps():
            for step in (own[index] for index in some_steps(len(own))):
                if not _is_rate(rate := self.learning_rate(step)):
                    raise PartError(
                        f"learning_rate: {part_name(phase.learning_rate)} gives {rate!r} at step {step + 1} of "
                        f"{steps}, and a rate is a finite number of 0 or more"
                    )

    def _index(self, step: int) -> int:
        return max(index for index, start in enumerate(self._starts) if start <= step)

    def at(self, step: int) -> Phase:
        """The phase that acts at ``step`` (counted from 0)."""
        return self._phases[self._index(step)]

    def begins_fresh(self, step: int) -> bool:
        """True = the optimiser is to forget its moments before ``step``."""
        return step > 0 and step in self._starts and self.at(step).fresh_optimizer

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step``, from the schedule of its phase."""
        return self._learning_rate(step, self.steps)

    def _learning_rate(self, step: int, steps: int) -> float:
        """That of a run of ``steps``."""
        index = self._index(step)
        start, end = (*self._starts, steps)[index : index + 2]
        phase = self._phases[index]
        return phase.learning_rate((step - start) / (phase.learning_rate_steps or end - start))

    def with_steps(self) -> list[tuple[Phase, range]]:
        """Each phase with its steps."""
        bounds = [*self._starts, self.steps]
        return [(phase, range(*bounds[index : index + 2])) for index, phase in enumerate(self._phases)]

    def __iter__(self) -> Iterator[Phase]:
        return iter(self._phases)

    def state_dict(self) -> dict[str, Any]:
        algorithms = [phase.algorithm.state_dict() for phase in self._phases]
        return {"bounds": [*self._starts, self.steps], "algorithms": algorithms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["bounds"][:-1] != self._starts:
            raise ResumeError(
                f"the run of the checkpoint had phases that begin at steps {state['bounds'][:-1]}, this one at "
                f"{self._starts}: resume with the same phases"
            )
        for phase, memory in zip(self._phases, state["algorithms"], strict=True):
            phase.algorithm.load_state_dict(memory)

    def check_length(self, then: int, done: int) -> None:
        """Whether a run may have another length than when it began: only if it would have come to the same place.

        Args:
            then: steps of the run of the checkpoint.
            done: steps that it had taken.

        Raises:
            ResumeError: what would have been different.
        """
        if self.steps == then:
            return
        advice = (
            f"resume with steps={then}, set allow_changes=true, or start a new run with model.path=RUN/policy (a run "
            f"that is to become longer needs learning_rate=constant or a learning_rate_steps)"
        )
        for step in some_steps(done):
            was, would_be = self._learning_rate(step, then), self._learning_rate(step, self.steps)
            if was != would_be:
                raise ResumeError(
                    f"steps changed from {then} to {self.steps}, over which the learning rate runs: at step {step + 1} "
                    f"it was {was:g} and would have been {would_be:g}; {advice}"
                )
        for phase in self._phases:
            for schedule in step_schedules([phase.algorithm, phase.loss]):
                if schedule.horizon == self.steps and not _same(schedule, then, done):
                    raise ResumeError(
                        f"steps changed from {then} to {self.steps}, over which {schedule.name} runs: it would have "
                        f"had other values; {advice}"
                    )


def _same(schedule: StepSchedule, horizon: int, done: int) -> bool:
    """Whether a schedule had the values that it would have had over another horizon."""
    return all(schedule(step) == schedule.schedule(step / horizon) for step in some_steps(done))
