"""Phases: which algorithm and loss act at which step.

A run is a sequence of phases with a step budget each.  Most have one; "SFT, then GRPO" has two.  A phase brings its
own learning-rate schedule, over its own steps, and says whether it starts with a fresh optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hapo_lit.errors import ResumeError
from hapo_lit.protocols import Algorithm, PolicyLoss
from hapo_lit.schedules import Schedule


class Phase:
    """One algorithm with its loss and learning rate.

    Args:
        algorithm: turns prompts into experience.
        loss: turns experience into a loss.
        learning_rate: schedule over this phase's own progress.
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
    ) -> None:
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
        self.fresh_optimizer = fresh_optimizer


class Phases:
    """Phases in order over ``steps`` training steps.

    Args:
        steps: of the whole run.
        sequence: name -> phase, in order.

    Raises:
        ValueError: the budgets do not fit ``steps``.
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

    def _index(self, step: int) -> int:
        return max(index for index, start in enumerate(self._starts) if start <= step)

    def at(self, step: int) -> Phase:
        """The phase that acts at ``step`` (counted from 0)."""
        return self._phases[self._index(step)]

    def begins_fresh(self, step: int) -> bool:
        """True = the optimiser is to forget its moments before ``step``."""
        return step > 0 and step in self._starts and self.at(step).fresh_optimizer

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step``, from the phase's schedule over the phase's own steps."""
        index = self._index(step)
        start, end = (*self._starts, self.steps)[index : index + 2]
        return self._phases[index].learning_rate((step - start) / (end - start))

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
        bounds = [*self._starts, self.steps]
        if state["bounds"] != bounds:
            raise ResumeError(
                f"the run of the checkpoint had phases that begin and end at steps {state['bounds']}, this one at "
                f"{bounds}: learning rates would jump; resume with the same steps"
            )
        for phase, memory in zip(self._phases, state["algorithms"], strict=True):
            phase.algorithm.load_state_dict(memory)
