"""The interfaces between parts.  A part is any object that fits; none needs a base class.

To swap a part, name another class in YAML.  ``_target_`` selects the class; its constructor
arguments are the settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from hapo_lit.device_memory import DeviceMemory, RolloutBatch, SamplingMemory
from hapo_lit.rows import Judgement, LossOutput, Rows
from hapo_lit.types import Experience, GateDecision, PromptBatch, RolloutGroup

if TYPE_CHECKING:
    import torch


Mean = Callable[[Tensor], Tensor]
"""Scalar of this rank -> its mean over ranks."""


def check_function(function: object, arguments: int, name: str) -> None:
    """Raise ``ValueError`` unless ``function`` takes so many positional arguments; ``name`` is its key in ``conf/``."""
    try:
        inspect.signature(function).bind(*range(arguments))  # type: ignore[arg-type]
    except TypeError:
        known = getattr(function, "__name__", function)
        raise ValueError(f"{name} must be a function of {arguments} tensors, and {known!r} is not") from None


class Ranks(NamedTuple):
    """Collective operations over ranks: every rank must call them, in the same order.  :data:`ALONE` = one process."""

    gather: Callable[[Tensor], Tensor]
    """``[P, ...]`` of this rank -> ``[P * world, ...]`` of all, in rank order, the same on every rank."""
    mean: Mean
    """Scalar -> its mean over ranks."""
    max: Callable[[int], int]
    """Integer -> its maximum over ranks."""
    barrier: Callable[[], None]
    """Returns once every rank has called it."""
    rank: int = 0
    """This process's number, from 0."""
    world: int = 1
    """How many processes there are."""


ALONE = Ranks(gather=lambda values: values, mean=lambda value: value, max=lambda number: number, barrier=lambda: None)
"""The ranks of a single process."""

Decode = Callable[[RolloutGroup], list[str]]
"""A group's ``P * G`` responses as text, without the token that ended them."""


@runtime_checkable
class Gate(Protocol):
    """Decides *whether* to help, from what it remembers of the policy's successes."""

    estimates: bool
    """True = its confidence is an estimate of the success rate; False = it keeps none and returns 1."""

    def check(self, trials: int) -> None:
        """Raise ``ValueError`` if, with ``trials`` rollouts per group, the gate could never open or never close."""

    def observe(self, prompt_ids: Tensor, successes: Tensor, trials: Tensor) -> None:
        """Learn on-policy counts ``[P]`` gathered over all ranks."""

    def __call__(self, prompt_ids: Tensor, successes: Tensor) -> GateDecision:
        """Decide for ``[P]`` prompts whose rollouts are right (1.0) or not (0.0), ``[P, G]``.  Pure."""

    def metrics(self) -> dict[str, float]:
        """Numbers worth plotting, relative to the gate's own namespace."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class HasOpenProbability(Protocol):
    """A gate that knows in closed form how probably it opens, so that a run can be compared with that."""

    def open_probability(self, rate: float | np.ndarray, trials: int, visit: int) -> np.ndarray | None:
        """P(open) at its ``visit``-th call of ``observe``, counted from 0, on prompts of these success rates after a
        group of ``trials``; None = not known in closed form."""


@runtime_checkable
class Injector(Protocol):
    """Decides *how* help is placed.  Groups whose gate is closed come back untouched."""

    teacher_stands_alone: bool
    """True = the teacher's row is left without a group to be compared with, hence without advantage."""

    def rollouts(self, group_size: int) -> int:
        """How many responses the policy samples for a group of ``group_size`` rows."""

    def __call__(self, group: RolloutGroup, prompts: PromptBatch, open: Tensor, step: int) -> RolloutGroup:
        """Place the teacher in groups that are ``open [P]`` and whose teacher the verifier accepted.

        A random choice is a function of (seed, prompt id, ``step``).
        """


@runtime_checkable
class AdvantageEstimator(Protocol):
    """Turns rewards into credit."""

    def __call__(self, group: RolloutGroup, mean: Mean) -> Tensor:
        """``[P, G]`` advantages; 0 where a row is absent.  ``mean`` makes statistics of the batch global."""


@runtime_checkable
class TokenWeighting(Protocol):
    """Decides how much each token counts: weights ``w`` with ``loss = sum(w * token_loss)``."""

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        """``[P, G, T]`` weights; ``mean`` makes denominators global; ``step`` is for weights that follow a schedule."""


@runtime_checkable
class HasEntropyWeights(Protocol):
    """A weighting that weighs the entropy bonus otherwise than the loss."""

    def entropy_weights(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        """``[P, G, T]`` weights of the entropies; 0 wherever the weight in the loss is."""


@runtime_checkable
class TeacherTerm(Protocol):
    """What a teacher token adds to the objective (to be maximised)."""

    needs_advantage: bool
    """True = the term is zero wherever the advantage is."""

    needs_confidence: bool
    """True = the term depends on the gate's estimate of the success rate."""

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        """``[N, T]`` values from ``[N, T]`` log π_θ; ``rows`` has the advantages, confidences, log π_old, the step."""


@runtime_checkable
class PolicyLoss(Protocol):
    """The loss of a batch of rows."""

    needs_reference: bool
    """True = rows must carry reference log-probabilities."""

    needs_entropy: bool
    """True = the entropies must have a gradient."""

    teacher: TeacherTerm
    """What a teacher token adds."""

    def contributes(self, rows: Rows) -> Tensor:
        """``[N] bool``: False = the row's gradient is exactly zero, so that it need not run through the policy."""

    def __call__(self, logprobs: Tensor, entropy: Tensor, rows: Rows) -> LossOutput:
        """The loss for ``[N, T]`` current log-probabilities of the rows' tokens, and the entropies there."""


@runtime_checkable
class RolloutEngine(Protocol):
    """Samples responses."""

    is_trainer: bool
    """True = it samples from the very model that is trained, so that its log-probabilities need no correction."""

    def sync(self, policy: torch.nn.Module) -> None:
        """Use these weights from now on.  Collective: every rank must call it."""

    def with_temperature(self, temperature: float) -> RolloutEngine:
        """The same engine at another temperature; 0 = greedy."""

    def stops(self, policy: torch.nn.Module) -> list[int]:
        """The token ids that end a response of this policy."""

    def generate(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        """``group_size`` responses to each prompt, rewards still zero.

        The draw depends on (engine seed, prompt id, sample index, step) and nothing else.
        """

    def sleep(self) -> None:
        """Free the memory that the update can use, until the next ``sync``."""

    def close(self) -> None:
        """End what this engine has started.  What several engines share ends with the last of them."""

    def memory(
        self, policy: torch.nn.Module, batch: RolloutBatch, device: DeviceMemory | None = None
    ) -> SamplingMemory:
        """What sampling a batch takes on the policy's device.

        All responses are at their full length.  The policy may be a model of fake tensors, which have shapes and no
        contents.  The caller enters the autocast context of the run.

        Args:
            policy: gives sizes.
            batch: what is sampled.
            device: a GPU; an engine that can let sequences wait keeps within its free memory.  None = a CPU.
        """

    def metrics(self) -> dict[str, float]:
        """Time and tokens of the last call."""


@runtime_checkable
class Verifier(Protocol):
    """Judges answers."""

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> Tensor | Judgement:
        """``[N]`` rewards, of which exactly 1 is a success; or rewards and successes.

        A verdict that cannot be reached earns what a wrong answer does, and is counted in ``metrics``.
        """

    def metrics(self) -> dict[str, float]:
        """Time and tallies of the last call."""


@runtime_checkable
class HasSuccessRule(Protocol):
    """A verifier that returns rewards alone and has its own rule of what a success is."""

    def succeeds(self, rewards: Tensor) -> Tensor:
        """``[N] bool``: which of the responses that earn ``rewards [N]`` are right."""


@runtime_checkable
class AsksFor(Protocol):
    """A verifier that wants to know more than the reference answers."""

    asks_for: Sequence[str]
    """Of ``problems``, ``prompt_ids`` and ``difficulties`` those that it gets as keyword arguments, ``N`` of each."""


@runtime_checkable
class ReservesMemory(Protocol):
    """An engine that goes by how much of the device's memory is free."""

    def reserve_memory(self, to_come: Callable[[], int]) -> None:
        """Leave bytes to what the process will keep on the device and has not allocated yet.

        Args:
            to_come: how many there are, at the time it is called.
        """


@runtime_checkable
class ReadsReferences(Protocol):
    """A verifier that can say of a reference whether it reads it."""

    def can_read(self, references: Sequence[str]) -> list[bool]:
        """Whether each of the references can be compared with other spellings of the same answer."""


@runtime_checkable
class Algorithm(Protocol):
    """Turns prompts into credited experience."""

    @property
    def engine(self) -> RolloutEngine | None:
        """What samples; None = nothing does."""

    @property
    def gate(self) -> Gate | None:
        """What decides whether the teacher helps; None = nothing does."""

    @property
    def injector(self) -> Injector | None:
        """What places the teacher; None = nothing does, and groups are the teacher alone."""

    @property
    def weighting(self) -> TokenWeighting:
        """How much each token counts."""

    @property
    def rollouts_per_prompt(self) -> int:
        """How many responses the policy samples for each prompt; 0 = none."""

    @property
    def teacher_stands_alone(self) -> bool:
        """True = teacher rows come without an advantage."""

    @property
    def estimates(self) -> bool:
        """True = experience comes with an estimate of each prompt's success rate."""

    @property
    def samples_from_policy(self) -> bool:
        """True = sampling makes passes of the policy itself, of which ranks may make different numbers."""

    def sync(self, policy: torch.nn.Module) -> None:
        """Let the engine sample from these weights.  Collective: every rank must call it."""

    def sleep(self) -> None:
        """Let the engine free the memory that the update can use."""

    def close(self) -> None:
        """Let the engine end what it has started."""

    def collect(self, prompts: PromptBatch, step: int, decode: Decode, ranks: Ranks) -> Experience:
        """Sample for the prompts, judge, inject teachers and assign credit.  Collective: every rank must call it."""

    def without_teacher(self, experience: Experience, ranks: Ranks) -> Experience | None:
        """The same rollouts credited as if nothing had been injected; None if there were none."""

    def metrics(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
