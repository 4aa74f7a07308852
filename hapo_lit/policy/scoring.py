"""Token log-probabilities of a policy, without ever building ``[N, T, V]`` logits."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hapo_lit.policy.output_head import head_of, tile_of
from hapo_lit.policy.vocabulary import unreadable_ids
from hapo_lit.protocols import Ranks
from hapo_lit.rows import MicroBatchLimit, Text


def positions(mask: Tensor) -> Tensor:
    """``[N, L] bool`` -> position ids that start at 0 on the first unpadded token."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def token_logprobs(
    policy: PreTrainedModel,
    text: Text,
    temperature: float = 1.0,
    logits_per_tile: int | None = None,
    entropy_gradient: bool = False,
    padding_free: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the response tokens, and the entropies there.

    The transformer runs once over all rows.  Only hidden states that predict a response token meet the output
    head, in tiles, see :mod:`hapo_lit.policy.output_head`.

    Args:
        policy: a causal language model.
        text: prompts and responses; the responses are scored.
        temperature: logits are divided by it, so that these are the probabilities of the distribution sampled from.
        logits_per_tile: bound on the logits of a tile; None = by the device.
        entropy_gradient: True = the entropies have a gradient too, for an entropy bonus.
        padding_free: True = the rows are one sequence without padding, False = they are ``[N, S + T]``.

    Returns:
        ``[N, T]`` log-probabilities and ``[N, T]`` entropies (in nats); both 0 off the mask.
    """
    hidden_M, target_M = _predicting(policy, text, padding_free), text.tokens[text.mask]
    head = head_of(policy)
    tile = tile_of(len(head.weight), hidden_M.device.type, logits_per_tile)
    logprobs_M, entropy_M = head.logprobs(
        hidden_M, target_M, unreadable_ids(policy), temperature, entropy_gradient, tile
    )
    if not torch.is_grad_enabled():
        torch.clear_autocast_cache()  # it holds casts of the weights that have no gradients
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
