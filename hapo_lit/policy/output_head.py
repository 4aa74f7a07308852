"""The output head of a policy, and log-probabilities by it without ever holding ``[N, T, V]`` logits.

Logits come in tiles, of some rows and some of the vocabulary, that fit into a CPU's cache.  The forward pass keeps each
row's log-sum-exp; the backward pass computes a tile again, turns it in place into the gradient of the loss by its
logits (softmax minus one-hot, times what comes in), and multiplies that into the gradients of weight and hidden states.
Where all exponentials take little memory they are kept instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers import PreTrainedModel

LOGITS_PER_TILE = {"cpu": 2**19, "cuda": 2**24}
"""By type of device: 2 MiB in float32, or 64."""
ROWS = 64, 256
"""A tile has the whole vocabulary where that leaves so many rows; else it has so many rows."""
KEPT_LOGITS = 2**24
"""So many exponentials are kept for the backward pass, at most: 64 MiB in float32."""


class Tile(NamedTuple):
    """Example: ``Tile(rows=256, columns=2048, whole=False)``."""

    rows: int
    columns: int
    """Of the vocabulary, at a time."""
    whole: bool
    """Whether exponentials may be kept, for which a tile must have the whole vocabulary."""


_COUNTED: ContextVar[tuple[str, int] | None] = ContextVar("_COUNTED", default=None)


@contextmanager
def tiles_as_on(device_type: str, wider: int = 1) -> Iterator[None]:
    """Inside, tiles hold as much as those of another type of device, ``wider`` times, and have the whole vocabulary.

    For counting memory with fake tensors, which need time and no memory.
    """
    token = _COUNTED.set((device_type, wider))
    try:
        yield
    finally:
        _COUNTED.reset(token)


def tile_of(vocabulary: int, device_type: str, logits: int | None = None) -> Tile:
    """The size of tiles.

    Args:
        vocabulary: logits in a row.
        device_type: such as ``cpu``.
        logits: in a tile, at most; None = by the device.
    """
    counted = _COUNTED.get()
    device_type, wider = counted or (device_type, 1)
    logits = logits or LOGITS_PER_TILE.get(device_type, LOGITS_PER_TILE["cuda"])
    whole = vocabulary * ROWS[0] <= logits
    columns = vocabulary if whole or counted else max(1, logits // ROWS[1])
    return Tile(max(1, logits // columns) * wider, columns, whole)


class Head(NamedTuple):
    """The output head of a policy in float32, whatever the policy and autocast are in.

    In bfloat16 a log-probability would be off by .015 on average, and gradients of tiles be added up with as few
    digits.  :func:`head_of` makes one; weights that are float32 already are not copied.
    """

    weight: Tensor
    """``[V, H]``."""
    bias: Tensor | None
    """``[V]`` or None."""

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., H]`` last hidden states -> ``[..., V]`` logits, in float32 (float64 where the policy is)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return linear(hidden.to(self.weight.dtype), self.weight, self.bias)

    def logprobs(
        self,
        hidden: Tensor,
        target: Tensor,
        unreadable: Tensor | None = None,
        temperature: float = 1.0,
        entropy_gradient: bool = False,
        tile: Tile | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of tokens and the entropies of their distributions.

        Args:
            hidden: ``[M, H]`` last hidden states.
            target: ``[M]`` token ids.
            unreadable: ids without a probability, see :mod:`hapo_lit.policy.vocabulary`.
            temperature: logits are divided by it.
            entropy_gradient: True = the entropies have a gradient too.
            tile: its size; None = by the device.

        Returns:
            ``[M]`` and ``[M]``, in nats.
        """
        tile = tile or tile_of(len(self.weight), hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            hidden, keep = hidden.to(self.weight.dtype), torch.is_grad_enabled()
            settings = _Settings(temperature, tile, entropy_gradient, keep)
            logprobs, entropy = _HeadLogprobs.apply(hidden, self.weight, self.bias, target, unreadable, settings)  # type: ignore[no-untyped-call]
        return logprobs, entropy if entropy_gradient else entropy.detach()


def head_of(policy: PreTrainedModel) -> Head:
    """The output head of a policy, for the sampler and the scorer alike; with an adapter of its own, if it has one."""
    head = policy.get_output_embeddings()
    kind = torch.promote_types(head.weight.dtype, torch.float32)
    bias, weight = getattr(head, "bias", None), head.weight.to(kind)
    if hasattr(head, "get_delta_weight") and not head.disable_adapters:
        for adapter in head.active_adapters:
            weight = weight + head.get_delta_weight(adapter).to(kind)
    return Head(weight, None if bias is None else bias.to(kind))


class _Settings(NamedTuple):
    """Example: ``_Settings(temperature=1.0, tile=Tile(256, 2048, False), entropy_gradient=False, backward=True)``."""

    temperature: float
    tile: Tile
    entropy_gradient: bool
    backward: bool
    """Whether there can be a backward pass."""


class _HeadLogprobs(torch.autograd.Function):
    """Hidden states, weight, bias, targets, ids without a token, settings -> log-probabilities and entropies."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        unreadable: Tensor | None,
        settings: _Settings,
    ) -> tuple[Tensor, Tensor]:
        tiles, count, vocabulary = _Tiles(hidden, weight, bias, unreadable, settings), len(target), len(weight)
        keep = settings.backward and not settings.entropy_gradient
        keep = keep and settings.tile.whole and count * vocabulary <= KEPT_LOGITS
        kept = hidden.new_empty(count, vocabulary) if keep else None
        room = None if keep else tiles.room()
        most = hidden.new_full((count,), -torch.inf)
        logprobs, total, product = (hidden.new_zeros(count) for _ in range(3))
        for rows in tiles.rows():
            for columns in tiles.columns():
                logits = tiles.logits(rows, columns)
                more = torch.maximum(most[rows], logits.amax(-1))
                inside, index = _inside(target[rows], columns)
                logprobs[rows] += logits.gather(-1, index)[:, 0].where(inside, 0)
                logits.sub_(more[:, None])
                mass = torch.exp(logits, out=_like(room, logits) if kept is None else kept[rows])
                scale = (most[rows] - more).exp_()  # 0 at the first columns
                # what was summed of mass * (logit - most) goes over to the new most
                product[rows] += (most[rows] - more).nan_to_num_(0, 0, 0) * total[rows]
                product[rows] = product[rows] * scale + torch.bmm(mass[:, None], logits[:, :, None])[:, 0, 0]
                total[rows] = total[rows] * scale + mass.sum(-1)
                most[rows] = more
        log_total = total.log()
        entropy = log_total - product / total
        logprobs -= most
        logprobs -= log_total
        ctx.settings = settings
        sums = most + log_total if kept is None else total
        ctx.save_for_backward(hidden, weight, bias, target, unreadable, sums, entropy, kept)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, entropy_slope: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, target, unreadable, sums, entropy, kept = ctx.saved_tensors
        settings: _Settings = ctx.settings
        tiles = _Tiles(hidden, weight, bias, unreadable, settings)
        of_hidden, of_weight, of_bias = (
            None if kind is None or not needed else torch.zeros_like(kind)
            for kind, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        slope, entropy_slope = slope / settings.temperature, entropy_slope / settings.temperature
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in tiles.rows():
                for columns in tiles.columns():
                    if kept is not None:
                        factor = (-slope[rows] / sums[rows])[:, None]
                        by_logits = torch.mul(kept[rows], factor, out=_like(tiles.held, kept[rows]))
                    else:
                        by_logits = tiles.logits(rows, columns).sub_(sums[rows, None])
                        if settings.entropy_gradient:
                            hidden_ids = tiles.unreadable(columns)
                            by_logits = _with_entropy(
                                by_logits, hidden_ids, slope[rows], entropy_slope[rows], entropy[rows]
                            )
                        else:
                            by_logits.exp_().mul_(-slope[rows, None])
                    inside, index = _inside(target[rows], columns)
                    by_logits.scatter_add_(1, index, slope[rows].where(inside, 0)[:, None])
                    if of_hidden is not None:
                        of_hidden[rows].addmm_(by_logits, weight[columns])
                    if of_weight is not None:
                        of_weight[columns].addmm_(by_logits.T, hidden[rows])
                    if of_bias is not None:
                        of_bias[columns] += by_logits.sum(0)
        return of_hidden, of_weight, of_bias, None, None, None


class _Tiles:
    """The logits of a head over the temperature, tile by tile in the same room."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, unreadable: Tensor | None, settings: _Settings
    ) -> None:
        self._hidden, self._weight, self._bias, self._unreadable = hidden, weight, bias, unreadable
        self._temperature, self._tile = settings.temperature, settings.tile
        self.held = self.room()

    def room(self) -> Tensor:
        """Room for a tile."""
        return self._hidden.new_empty(
            min(self._tile.rows, len(self._hidden)), min(self._tile.columns, len(self._weight))
        )

    def rows(self) -> Iterator[slice]:
        return _slices(len(self._hidden), self._tile.rows)

    def columns(self) -> Iterator[slice]:
        return _slices(len(self._weight), self._tile.columns)

    def unreadable(self, columns: slice) -> Tensor | None:
        """Which of the columns have no token, counted from their first."""
        if self._unreadable is None or self._tile.columns >= len(self._weight):
            return self._unreadable
        inside, index = _inside(self._unreadable, columns)
        return index[inside, 0]

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """``[rows, columns]``, in the room."""
        hidden, weight = self._hidden[rows], self._weight[columns]
        logits = self.held[: len(hidden), : len(weight)]
        if self._bias is None:
            torch.mm(hidden, weight.T, out=logits)
        else:
            torch.addmm(self._bias[columns], hidden, weight.T, out=logits)
        if self._temperature != 1:
            logits /= self._temperature
        ids = self.unreadable(columns)
        return logits if ids is None else logits.index_fill_(-1, ids, torch.finfo(logits.dtype).min)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _like(room: Tensor | None, tile: Tensor) -> Tensor | None:
    """The part of a room that a tile takes."""
    return None if room is None else room[: len(tile), : tile.shape[1]]


def _inside(ids: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """``[M] bool`` which ids are among the columns, and ``[M, 1]`` where; those that are not have some place there."""
    place = ids - columns.start
    last = columns.stop - columns.start - 1
    return (place >= 0) & (place <= last), place.clamp(0, last)[:, None]


def _with_entropy(
    logprobs: Tensor, unreadable: Tensor | None, slope: Tensor, entropy_slope: Tensor, entropy: Tensor
) -> Tensor:
    """The gradient by a tile's logits, but for the one-hot: ``-p_j (slope + entropy_slope (log p_j + H))``.

    ``logprobs`` ``[M, V]`` is overwritten.
    """
    mass = logprobs.exp()
    if unreadable is not None:
        logprobs.index_fill_(-1, unreadable, 0)  # whose product with a slope may be infinite
    return logprobs.add_(entropy[:, None]).mul_(entropy_slope[:, None]).add_(slope[:, None]).mul_(mass).neg_()
