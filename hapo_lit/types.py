"""The values that flow through the framework, each frozen, each tensor with its shape.

``PromptBatch -> RolloutGroup -> Experience -> Rows -> LossOutput``; the last two are in ``rows.py``.  Axis letters,
used everywhere:

====== =====================================================================
``P``  prompts in this rank's batch
``G``  responses per prompt (the group)
``S``  prompt tokens, padded on the left
``T``  response tokens, padded on the right, end-of-sequence included
``N``  rows: responses that take part in an update, at most ``P * G``
``V``  vocabulary
====== =====================================================================

Carriers check the number of dimensions, dtypes and agreeing sizes when they are made, and are never changed
afterwards: a stage that alters something returns ``dataclasses.replace(value, ...)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from hapo_lit.rows import Questions, Rows, Text

Carrier = TypeVar("Carrier", bound="_Movable")
Item = TypeVar("Item")


class CarrierError(ValueError):
    """A carrier is given what it cannot hold; the message names the field."""


class _Movable:
    """Gives a carrier ``.to(device)``, which Lightning needs to move a frozen dataclass."""

    def to(self: Carrier, device: torch.device | str, non_blocking: bool = False) -> Carrier:
        held = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        moved = {
            name: there
            for name, value in held.items()
            if isinstance(value, (Tensor, _Movable))
            and (there := value.to(device, non_blocking=non_blocking)) is not value
        }
        return replace(self, **moved) if moved else self  # type: ignore[type-var]


def _check(owner: object, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    """Raise a :class:`CarrierError` that names the field, unless it has this shape and one of these dtypes."""
    value = getattr(owner, name)
    where = f"{type(owner).__name__}.{name}"
    if not isinstance(value, Tensor):
        raise CarrierError(f"{where} must be a tensor, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise CarrierError(f"{where} has shape {tuple(value.shape)}, expected {shape}")
    if value.dtype not in dtypes:
        raise CarrierError(f"{where} has dtype {value.dtype}, expected {' or '.join(map(str, dtypes))}")


_FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class PromptBatch(_Movable):
    """Prompts with the teacher solutions paired to them.

    One prompt (P = 1) of three tokens, one of them padding (S = 3), with a teacher's solution of two (T = 2):

    >>> prompts = PromptBatch(
    ...     prompt_ids=torch.tensor([7]),
    ...     tokens=torch.tensor([[0, 14, 15]]),
    ...     mask=torch.tensor([[False, True, True]]),
    ...     answers=("29",),
    ...     teacher_tokens=torch.tensor([[9, 2]]),
    ...     teacher_mask=torch.tensor([[True, True]]),
    ...     teacher_rewards=torch.tensor([1.0]),
    ... )
    >>> prompts.teacher_usable
    tensor([True])
    >>> prompts.questions(2).answers
    ['29', '29']
    """

    prompt_ids: Tensor
    """``[P] int64``: the problem's identity across epochs, ranks and runs (a hash of its text); the gate's key."""
    tokens: Tensor
    """``[P, S] int64``, padded on the left."""
    mask: Tensor
    """``[P, S] bool``: True on prompt tokens."""
    answers: tuple[str, ...]
    """``P`` reference answers."""
    teacher_tokens: Tensor
    """``[P, T] int64``: the teacher's solution with its end-of-sequence token, padded on the right."""
    teacher_mask: Tensor
    """``[P, T] bool``: True on the teacher's tokens."""
    teacher_rewards: Tensor
    """``[P] float``: what the teacher's solution earns; 0 where it may not be used."""
    teacher_usable: Tensor = field(default=None)  # type: ignore[assignment]
    """``[P] bool``: False = the teacher is absent, wrong or too long, and never injected.  Where it is not given, a
    teacher is usable whose reward is exactly 1."""
    cursor: tuple[int, ...] = ()
    """Where the data stand after this batch: what a checkpoint holds, to resume at the next one."""
    difficulties: tuple[str, ...] = ()
    """``P`` labels, such as ``4-digit``, by which rewards are reported separately; empty = there are none."""
    problems: tuple[str, ...] = ()
    """``P`` texts of the problems, for a verifier that asks for them; empty = they are not known."""

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.teacher_tokens.ndim != 2:
            raise CarrierError(
                f"PromptBatch.tokens and .teacher_tokens must be [P, S] and [P, T], got {tuple(self.tokens.shape)} "
                f"and {tuple(self.teacher_tokens.shape)}"
            )
        size, width = self.tokens.shape
        _check(self, "prompt_ids", (size,), torch.int64)
        _check(self, "tokens", (size, width), torch.int64)
        _check(self, "mask", (size, width), torch.bool)
        _check(self, "teacher_tokens", (size, self.teacher_tokens.shape[1]), torch.int64)
        _check(self, "teacher_mask", tuple(self.teacher_tokens.shape), torch.bool)
        _check(self, "teacher_rewards", (size,), *_FLOATS)
        if self.teacher_usable is None:
            object.__setattr__(self, "teacher_usable", self.teacher_rewards == 1)
        _check(self, "teacher_usable", (size,), torch.bool)
        for name, sizes in {"answers": (size,), "difficulties": (0, size), "problems": (0, size)}.items():
            if len(getattr(self, name)) not in sizes:
                raise CarrierError(f"PromptBatch.{name} has {len(getattr(self, name))} entries for {size} prompts")

    def answers_repeated(self, group_size: int) -> list[str]:
        """``P * G`` reference answers in the order of flattened ``[P, G]`` responses."""
        return [answer for answer in self.answers for _ in range(group_size)]

    def questions(self, group_size: int) -> Questions:
        """What ``P * G`` responses answer, in the order of flattened ``[P, G]`` responses."""

        def repeated(column: Sequence[Item]) -> list[Item]:
            return [value for value in column for _ in range(group_size)]

        return Questions(
            answers=repeated(self.answers),
            problems=repeated(self.problems),
            prompt_ids=repeated(self.prompt_ids.tolist()),
            difficulties=repeated(self.difficulties),
        )


@dataclass(frozen=True, eq=False)
class RolloutGroup(_Movable):
    """``G`` responses to each of ``P`` prompts, always rectangular.

    The same prompt with two responses (G = 2) of two tokens and of one (T = 2), the first of them right:

    >>> group = RolloutGroup(
    ...     prompt_ids=torch.tensor([7]),
    ...     prompt_tokens=torch.tensor([[0, 14, 15]]),
    ...     prompt_mask=torch.tensor([[False, True, True]]),
    ...     tokens=torch.tensor([[[9, 2], [2, 0]]]),
    ...     mask=torch.tensor([[[True, True], [True, False]]]),
    ...     rewards=torch.tensor([[1.0, 0.0]]),
    ...     finished=torch.tensor([[True, True]]),
    ...     is_teacher=torch.tensor([[False, False]]),
    ...     present=torch.tensor([[True, True]]),
    ... )
    >>> group.success_counts()
    (tensor([1]), tensor([2]))
    """

    prompt_ids: Tensor
    """``[P] int64``."""
    prompt_tokens: Tensor
    """``[P, S] int64``, padded on the left."""
    prompt_mask: Tensor
    """``[P, S] bool``."""
    tokens: Tensor
    """``[P, G, T] int64``, padded on the right."""
    mask: Tensor
    """``[P, G, T] bool``: True on response tokens, the end-of-sequence token included."""
    rewards: Tensor
    """``[P, G] float``: what advantages are made of; 0 = nothing earned (or not verified yet)."""
    finished: Tensor
    """``[P, G] bool``: False = the response ran into the length limit."""
    is_teacher: Tensor
    """``[P, G] bool``: True = written by the teacher, not sampled from the policy."""
    present: Tensor
    """``[P, G] bool``: False = a row that does not exist; it counts nowhere."""
    behaviour_logprobs: Tensor | None = None
    """``[P, G, T] float``: log-probabilities as the engine reports them, 0 off the mask; None = not reported."""
    successes: Tensor = field(default=None)  # type: ignore[assignment]
    """``[P, G] bool``: what gates and injectors see.  Where it is not given, a row succeeds whose reward is exactly 1;
    a stage that changes rewards alone leaves it as it is."""

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3:
            raise CarrierError(f"RolloutGroup.tokens must be [P, G, T], got {tuple(self.tokens.shape)}")
        prompts, group, _ = self.tokens.shape
        full = tuple(self.tokens.shape)
        _check(self, "prompt_ids", (prompts,), torch.int64)
        _check(self, "prompt_tokens", (prompts, self.prompt_tokens.shape[-1]), torch.int64)
        _check(self, "prompt_mask", tuple(self.prompt_tokens.shape), torch.bool)
        _check(self, "tokens", full, torch.int64)
        _check(self, "mask", full, torch.bool)
        _check(self, "rewards", (prompts, group), *_FLOATS)
        if self.successes is None:
            object.__setattr__(self, "successes", self.rewards == 1)
        for name in ("finished", "is_teacher", "present", "successes"):
            _check(self, name, (prompts, group), torch.bool)
        if self.behaviour_logprobs is not None:
            _check(self, "behaviour_logprobs", full, *_FLOATS)

    @cached_property
    def on_policy(self) -> Tensor:
        """``[P, G] bool``: rows that exist and that the policy wrote."""
        return self.present & ~self.is_teacher

    def with_rewards(self, rewards_N: Tensor, successes_N: Tensor | None = None) -> RolloutGroup:
        """The same group with the verifier's ``P * G`` verdicts, which come in flattened ``[P, G]`` order.

        A response that never ended is no success and earns nothing, whatever it says: stopping is part of answering.
        A negative reward it keeps.

        Args:
            rewards_N: what the responses earn.
            successes_N: which of them are right; None = those that earn exactly 1.
        """
        rewards = rewards_N.reshape(self.rewards.shape).to(self.rewards)
        right = rewards == 1 if successes_N is None else successes_N.reshape(rewards.shape).to(self.successes)
        rewards = torch.where(self.finished, rewards, rewards.clamp(max=0))
        return replace(
            self,
            rewards=torch.where(self.present, rewards, 0.0),
            successes=right & self.present & self.finished,
        )

    def text(self) -> Text:
        """The ``P * G`` responses, each with its prompt."""
        size = self.tokens.shape[1]
        return Text(
            prompt_tokens=self.prompt_tokens.repeat_interleave(size, 0),
            prompt_mask=self.prompt_mask.repeat_interleave(size, 0),
            tokens=self.tokens.flatten(0, 1),
            mask=self.mask.flatten(0, 1),
        )

    def success_counts(self) -> tuple[Tensor, Tensor]:
        """``(successes [P], trials [P])`` in int64 over on-policy rows: what the gate may learn from."""
        on_policy = self.on_policy
        return (on_policy & self.successes).sum(1), on_policy.sum(1)


@dataclass(frozen=True, eq=False)
class GateDecision(_Movable):
    """What a gate says of each prompt.

    A closed gate that estimates a success rate of one half, as Beta(1, 1) does after one success and one failure:

    >>> decision = GateDecision(open=torch.tensor([False]), confidence=torch.tensor([0.5]))
    """

    open: Tensor
    """``[P] bool``: True = the policy is failing here and may be helped."""
    confidence: Tensor
    """``[P] float``: the gate's estimate of the success rate (the paper's c, Eq. 6); 1 where it keeps none."""

    def __post_init__(self) -> None:
        _check(self, "open", tuple(getattr(self.open, "shape", ()))[:1], torch.bool)
        _check(self, "confidence", (self.open.shape[0],), *_FLOATS)


@dataclass(frozen=True, eq=False)
class Experience(_Movable):
    """A credited group: everything an update needs, and the rollouts as they were before injection.

    With ``group`` and ``decision`` of the examples above, credit r − mean and a third of the loss for each token:

    >>> experience = Experience(
    ...     group=group,
    ...     advantages=torch.tensor([[0.5, -0.5]]),
    ...     token_weights=torch.tensor([[[1 / 3, 1 / 3], [1 / 3, 0.0]]]),
    ...     decision=decision,
    ... )
    >>> experience.rows().size
    2
    """

    group: RolloutGroup
    """The group that enters the loss, teacher rows included."""
    advantages: Tensor
    """``[P, G] float``."""
    token_weights: Tensor
    """``[P, G, T] float``: the share of each token in the batch loss; 0 = does not count."""
    decision: GateDecision
    """What the gate said of each prompt."""
    rollouts: RolloutGroup | None = None
    """The group before injection, verified; None = nothing was sampled (a supervised step)."""
    behaviour_logprobs: Tensor | None = None
    """``[P, G, T]`` as the engine reports them, if the engine is not the trainer itself; None = nothing to correct."""
    teacher_usable: Tensor | None = None
    """``[P] bool``: the prompt has a teacher that the verifier accepted; None = not needed."""
    step: int = 0
    """The training step, counted from 0, at which it was collected."""
    entropy_weights: Tensor | None = None
    """``[P, G, T]``: the share of each token in the entropy bonus; None = that in the loss."""

    def __post_init__(self) -> None:
        full = tuple(self.group.tokens.shape)
        _check(self, "advantages", full[:2], *_FLOATS)
        _check(self, "token_weights", full, *_FLOATS)
        if self.decision.open.shape[0] != full[0]:
            raise CarrierError(f"Experience.decision covers {self.decision.open.shape[0]} prompts, group has {full[0]}")
        for name in ("behaviour_logprobs", "entropy_weights"):
            if getattr(self, name) is not None:
                _check(self, name, full, *_FLOATS)

    def rows(self) -> Rows:
        """The ``P * G`` responses, one after the other, without log π_old and log π_ref, which the update adds."""
        group, size = self.group, self.group.tokens.shape[1]

        def flat(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.flatten(0, 1)

        return Rows(
            text=group.text(),
            is_teacher=group.is_teacher.flatten(),
            advantages=self.advantages.flatten(),
            token_weights=self.token_weights.flatten(0, 1),
            confidence=self.decision.confidence.repeat_interleave(size),
            old_logprobs=None,
            reference_logprobs=None,
            behaviour_logprobs=flat(self.behaviour_logprobs),
            step=self.step,
            entropy_weights=flat(self.entropy_weights),
        )
