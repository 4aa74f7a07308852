"""Token log-probabilities of a policy, without ever building ``[N, T, V]`` logits."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hapo_lit.policy.vocabulary import unreadable_ids, without_unreadable
from hapo_lit.protocols import Ranks
from hapo_lit.rows import MicroBatchLimit, Text

LOGITS_PER_CHUNK = 2**24
"""How many logits may exist at once: 64 MiB in float32."""
WIDER: ContextVar[int] = ContextVar("WIDER", default=1)
"""How many times as many there are while memory is counted with fake tensors, which need time and no memory."""


def positions(mask: Tensor) -> Tensor:
    """``[N, L] bool`` -> position ids that start at 0 on the first unpadded token."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


class Head(NamedTuple):
    """The output head of a policy in float32, whatever the policy and autocast are in.

    In bfloat16 a log-probability would be off by .015 on average, and gradients of chunks be added up with as few
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


def head_of(policy: PreTrainedModel) -> Head:
    """The output head of a policy, for the sampler and the scorer alike."""
    head = policy.get_output_embeddings()
    kind = torch.promote_types(head.weight.dtype, torch.float32)
    bias = getattr(head, "bias", None)
    return Head(head.weight.to(kind), None if bias is None else bias.to(kind))


def token_logprobs(
    policy: PreTrainedModel,
    text: Text,
    temperature: float = 1.0,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    entropy_gradient: bool = False,
    padding_free: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the response tokens, and the entropies there.

    The transformer runs once over all rows.  Only hidden states that predict a response token meet the output
    head, in chunks; more than one chunk are recomputed in the backward pass instead of kept.

    Args:
        policy: a causal language model.
        text: prompts and responses; the responses are scored.
        temperature: logits are divided by it, so that these are the probabilities of the distribution sampled from.
        logits_per_chunk: bound on the logits alive at once.
        entropy_gradient: True = the entropies have a gradient too, for an entropy bonus.
        padding_free: True = the rows are one sequence without padding, False = they are ``[N, S + T]``.

    Returns:
        ``[N, T]`` log-probabilities and ``[N, T]`` entropies (in nats); both 0 off the mask.
    """
    hidden_M, target_M = _predicting(policy, text, padding_free), text.tokens[text.mask]
    head, unreadable = head_of(policy), unreadable_ids(policy)
    size = max(1, logits_per_chunk // head.weight.shape[0]) * WIDER.get()
    keep = len(target_M) <= size or not torch.is_grad_enabled()
    chunks = [
        _head_logprobs(head, *chunk, unreadable, temperature, entropy_gradient)
        if keep
        else checkpoint(_head_logprobs, head, *chunk, unreadable, temperature, entropy_gradient, use_reentrant=False)
        for chunk in zip(hidden_M.split(size), target_M.split(size), strict=True)
    ]
    if not torch.is_grad_enabled():
        torch.clear_autocast_cache()  # it holds casts of the weights that have no gradients
    logprobs_M, entropy_M = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    off = torch.zeros(text.mask.shape, dtype=logprobs_M.dtype, device=logprobs_M.device)
    return off.masked_scatter(text.mask, logprobs_M), off.masked_scatter(text.mask, entropy_M)


def _predicting(policy: PreTrainedModel, text: Text, padding_free: bool) -> Tensor:
    """``[M, H]``: the last hidden states before each of the ``M`` response tokens, row after row."""
    width = text.tokens.shape[1]
    tokens, mask = torch.cat([text.prompt_tokens, text.tokens], 1), torch.cat([text.prompt_mask, text.mask], 1)
    decoder, places = policy.get_decoder(), positions(mask)
    hidden: Tensor
    if not padding_free:
        padded = decoder(input_ids=tokens, attention_mask=mask.long(), position_ids=places, use_cache=False)
        hidden = padded.last_hidden_state[:, -width - 1 : -1]
        return hidden[text.mask]
    # Positions begin at 0 with every row, by which transformers keeps rows from seeing one another.
    packed = decoder(input_ids=tokens[mask][None], position_ids=places[mask][None], use_cache=False)
    hidden, packed_places = packed.last_hidden_state[0], (mask.flatten().cumsum(0) - 1).view_as(mask)
    return hidden[packed_places[:, -width - 1 : -1][text.mask]]


@torch.no_grad()
def logprobs_as_in_update(
    policy: PreTrainedModel, text: Text, temperature: float, limit: MicroBatchLimit, ranks: Ranks
) -> Tensor:
    """``[N, T]`` log-probabilities of many responses, in micro-batches with the order and trim of an update's.

    Collective: every rank makes as many passes, as shards of a policy are gathered in each.

    Args:
        policy, text, temperature: as in :func:`token_logprobs`.
        limit: of a micro-batch.
        ranks: the other processes.
    """
    logprobs_NT = torch.zeros(text.tokens.shape, device=text.tokens.device)
    batches = text.micro_batches(limit)
    for index in batches + batches[-1:] * (ranks.max(len(batches)) - len(batches)):
        part = text.select(index).trimmed()
        found, _ = token_logprobs(policy, part, temperature, padding_free=limit.padding_free)
        logprobs_NT[index, : found.shape[1]] = found.to(logprobs_NT)
    return logprobs_NT


def _head_logprobs(
    head: Head,
    hidden: Tensor,
    target: Tensor,
    unreadable: Tensor | None,
    temperature: float,
    entropy_gradient: bool,
) -> tuple[Tensor, Tensor]:
    logits = without_unreadable(head.logits(hidden) / temperature, unreadable)
    total = logits.logsumexp(-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = total - ((logits - total[:, None]).exp() * logits).sum(-1)
    return logits.gather(-1, target[:, None]).squeeze(-1) - total, entropy
