"""Rows: responses one after the other, without the axis of the group, on their way into the loss.

``Experience -> Rows -> LossOutput``.  The axis letters are those of ``types.py``: ``N`` rows, ``S`` prompt tokens,
``T`` response tokens.  These are NamedTuples, as they cross the wrapper that Fabric puts around the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Questions(NamedTuple):
    """What ``N`` responses answer: the reference answers, and what else a verifier may ask for.

    >>> questions = Questions(answers=("29",), problems=("Compute 14+15.",))
    """

    answers: Sequence[str]
    """The reference answers."""
    problems: Sequence[str] = ()
    """The texts of the problems; empty = they are not known, and so for the fields below."""
    prompt_ids: Sequence[int] = ()
    """The problems' identities, the same in every epoch, rank and run."""
    difficulties: Sequence[str] = ()
    """The problems' labels."""


class Judgement(NamedTuple):
    """What a verifier says of ``N`` responses: whether each is right, and what it earns.

    A right one, and a wrong one that earns something for its form:

    >>> judgement = Judgement(rewards=torch.tensor([1.0, 0.1]), successes=torch.tensor([True, False]))
    """

    rewards: Tensor
    """``[N] float``, finite: what advantages are made of."""
    successes: Tensor
    """``[N] bool``: what gates, injectors, teacher checks and evaluations see."""


class MicroBatchLimit(NamedTuple):
    """How large a forward and backward pass may be.

    >>> limit = MicroBatchLimit(rows=8, tokens=16_384)
    """

    rows: int
    """At most."""
    tokens: int | None = None
    """At most, prompts and padding included; a longer row has a pass of its own.  None = any number."""
    padding_free: bool = False
    """True = passes have no padding, so that only real tokens count."""

    def fill(self, prompts: Sequence[int], responses: Sequence[int]) -> list[list[int]]:
        """The rows of each micro-batch, longest responses first; each micro-batch is as full as it may be.

        Args:
            prompts, responses: tokens of each row.
        """
        batches: list[list[int]] = []
        longest = widest = real = 0  # of the last micro-batch: its longest response and prompt, and its real tokens
        for row in sorted(range(len(responses)), key=lambda row: -responses[row]):
            prompt, response = prompts[row], responses[row]
            widest, real = max(widest, prompt), real + prompt + response
            count = len(batches[-1]) + 1 if batches else self.rows + 1
            tokens = real if self.padding_free else count * (longest + widest)
            if count > self.rows or (self.tokens is not None and tokens > self.tokens):
                batches.append([])
                longest, widest, real = response, prompt, prompt + response
            batches[-1].append(row)
        return batches

    def tokens_of(self, rows: Sequence[int], prompts: Sequence[int], responses: Sequence[int]) -> int:
        """Tokens of a pass over these rows."""
        prompt, response = ([lengths[row] for row in rows] for lengths in (prompts, responses))
        return sum(prompt) + sum(response) if self.padding_free else len(rows) * (max(prompt) + max(response))


class Text(NamedTuple):
    """Prompts with one response each.

    A prompt of two tokens (S = 3 with its padding) and a response of one (T = 2 with its padding):

    >>> text = Text(
    ...     prompt_tokens=torch.tensor([[0, 14, 15]]),
    ...     prompt_mask=torch.tensor([[False, True, True]]),
    ...     tokens=torch.tensor([[2, 0]]),
    ...     mask=torch.tensor([[True, False]]),
    ... )
    >>> text.trimmed().tokens
    tensor([[2]])
    """

    prompt_tokens: Tensor
    """``[N, S] int64``, padded on the left."""
    prompt_mask: Tensor
    """``[N, S] bool``."""
    tokens: Tensor
    """``[N, T] int64``, padded on the right."""
    mask: Tensor
    """``[N, T] bool``."""

    def select(self, index: Tensor) -> Text:
        """The responses at ``index`` (integers or a mask over ``N``)."""
        return Text(*(value[index] for value in self))

    def micro_batches(self, limit: MicroBatchLimit) -> list[Tensor]:
        """The responses of each micro-batch, as indices into ``N``, longest responses first."""
        batches = limit.fill(*self.lengths())
        return [torch.tensor(rows, device=self.mask.device) for rows in batches]

    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each prompt and of each response."""
        return self.prompt_mask.sum(1).tolist(), self.mask.sum(1).tolist()

    def trimmed(self) -> Text:
        """Without columns that are padding in every row; at least one column of each kind stays."""
        prompt_width = max(1, int(self.prompt_mask.any(0).sum()))
        width = max(1, int(self.mask.any(0).sum()))
        return Text(
            self.prompt_tokens[:, -prompt_width:],
            self.prompt_mask[:, -prompt_width:],
            self.tokens[:, :width],
            self.mask[:, :width],
        )


class Rows(NamedTuple):
    """Responses with all that the loss reads of them.

    One row (N = 1) with ``text`` of the example above, exactly on-policy and without a KL term:

    >>> rows = Rows(
    ...     text=text,
    ...     is_teacher=torch.tensor([False]),
    ...     advantages=torch.tensor([-0.5]),
    ...     token_weights=torch.tensor([[1.0, 0.0]]),
    ...     confidence=torch.tensor([0.5]),
    ...     old_logprobs=None,
    ...     reference_logprobs=None,
    ...     behaviour_logprobs=None,
    ...     step=0,
    ... )
    >>> [part.token_weights.tolist() for part in rows.split(limit)]
    [[[1.0]]]
    """

    text: Text
    """``N`` prompts and responses."""
    is_teacher: Tensor
    """``[N] bool``."""
    advantages: Tensor
    """``[N] float``."""
    token_weights: Tensor
    """``[N, T] float``."""
    confidence: Tensor
    """``[N] float``."""
    old_logprobs: Tensor | None
    """``[N, T] float`` log π_old; None = exactly on-policy, use the detached current ones."""
    reference_logprobs: Tensor | None
    """``[N, T] float`` log π_ref; None = no KL term."""
    behaviour_logprobs: Tensor | None
    """``[N, T] float`` or None: the engine's, where they may differ from the trainer's."""
    step: int
    """The training step, counted from 0."""
    entropy_weights: Tensor | None = None
    """``[N, T] float``, of the entropy bonus; None = ``token_weights``."""

    @property
    def size(self) -> int:
        """N, the number of rows."""
        return len(self.is_teacher)

    def old(self, logprobs: Tensor) -> Tensor:
        """``[N, T]`` log π_old: what was scored, or, exactly on-policy, the current ones without their gradient."""
        return logprobs.detach() if self.old_logprobs is None else self.old_logprobs

    def select(self, index: Tensor) -> Rows:
        """The rows at ``index`` (integers or a mask over ``N``)."""
        return self.changed(self.text.select(index), lambda value: value[index])

    def trimmed(self) -> Rows:
        """The same rows without columns that are padding in all of them."""
        text = self.text.trimmed()
        width = text.tokens.shape[1]
        return self.changed(text, lambda value: value[:, :width] if value.ndim == 2 else value)

    def split(self, limit: MicroBatchLimit) -> Iterator[Rows]:
        """The micro-batches of :meth:`Text.micro_batches`, each trimmed to its longest row."""
        for index in self.text.micro_batches(limit):
            yield self.select(index).trimmed()

    def with_zero_weight(self) -> Rows:
        """The same rows with no weight: they cost a pass and give a zero gradient."""
        return self._replace(
            token_weights=torch.zeros_like(self.token_weights),
            advantages=torch.zeros_like(self.advantages),
            entropy_weights=None,
        )

    def changed(self, text: Text, change: Callable[[Tensor], Tensor]) -> Rows:
        """The rows with another text, and ``change`` applied to every tensor beside it."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in self._asdict().items() if isinstance(value, Tensor)
        }
        return self._replace(text=text, **changed)


class UncastRows:
    """Rows that cross Fabric's wrapper in the precision they have.

    Fabric casts every floating-point tensor that it finds in the arguments of a forward pass to the model's precision;
    in bf16 advantages and token weights would lose all but three digits.  It does not look into an object like this.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows


class LossOutput(NamedTuple):
    """What a loss returns.

    A loss of one half, and of two tokens one that the clip held back:

    >>> LossOutput(torch.tensor(0.5), {"loss/clipped_share": torch.tensor([1.0, 2.0])}).loss
    tensor(0.5000)
    """

    loss: Tensor
    """Scalar; summing it over micro-batches gives the loss of the batch."""
    metrics: dict[str, Tensor]
    """Tallies, each ``[2] float`` of (sum, count), which add up over micro-batches and ranks."""
