"""Rows dealt to ranks by their tokens, so that no rank waits for the one with the longest responses.

Responses differ in length by far, and so would the work of ranks that keep the rows of their own prompts.  Weights and
advantages are settled before, over all ranks, so that a row adds the same to the gradient wherever it is run.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

from hapo_lit.protocols import Ranks
from hapo_lit.rows import MicroBatchLimit, Rows, Text


def dealt(rows: Rows, limit: MicroBatchLimit, ranks: Ranks) -> list[Rows]:
    """This rank's micro-batches of the rows of all ranks.  Collective.

    Args:
        rows: of this rank, any number.
        limit: of a micro-batch.
        ranks: the other processes.
    """
    of_all = gathered(rows.trimmed(), ranks)
    hands = deal(limit, *of_all.text.lengths(), ranks.world)
    device = of_all.is_teacher.device
    return [of_all.select(torch.tensor(batch, device=device)).trimmed() for batch in hands[ranks.rank]]


def deal(limit: MicroBatchLimit, prompts: list[int], responses: list[int], ranks: int) -> list[list[list[int]]]:
    """The micro-batches of each rank, as rows: no more passes than are needed, with about as many tokens on each rank.

    The passes of ranks go in step, as they gather shards together: those of the same number have rows of about the same
    length.  A rank may be without its last one.

    Args:
        limit: of a micro-batch.
        prompts, responses: tokens of each row.
        ranks: how many there are.
    """
    batches = even(limit, prompts, responses, ranks)
    tokens = [limit.tokens_of(batch, prompts, responses) for batch in batches]
    hands: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for first in range(0, len(batches), ranks):
        largest_first = sorted(range(first, min(first + ranks, len(batches))), key=lambda batch: -tokens[batch])
        lightest_first = sorted(range(ranks), key=lambda rank: loads[rank])
        for rank, batch in zip(lightest_first, largest_first, strict=False):
            hands[rank].append(batches[batch])
            loads[rank] += tokens[batch]
    return hands


def even(limit: MicroBatchLimit, prompts: list[int], responses: list[int], ranks: int) -> list[list[int]]:
    """Micro-batches in the order of length: as many as the limit asks for, rounded up to a multiple of ``ranks``, and
    of those the ones whose largest has fewest tokens."""
    batches = limit.fill(prompts, responses)
    most = ceil(len(batches) / ranks) * ranks
    largest = max((limit.tokens_of(batch, prompts, responses) for batch in batches), default=0)
    longest = max((prompt + response for prompt, response in zip(prompts, responses, strict=True)), default=0)
    low, high = (count if limit.tokens is None else min(count, limit.tokens) for count in (longest, largest))
    while low < high:
        middle = (low + high) // 2
        if len(limit._replace(tokens=middle).fill(prompts, responses)) <= most:
            high = middle
        else:
            low = middle + 1
    return limit._replace(tokens=high).fill(prompts, responses)


def gathered(rows: Rows, ranks: Ranks) -> Rows:
    """The rows of all ranks, on every rank, in the order of ranks.

    Ranks may have different numbers of rows, and of columns, which are padded on the side where they are padded anyway.
    """
    text, device = rows.text, rows.is_teacher.device
    own = torch.tensor([[rows.size, text.prompt_tokens.shape[1], text.tokens.shape[1]]], device=device)
    sizes = ranks.gather(own)
    count, prompt_width, width = sizes.amax(0).tolist()
    kept = (torch.arange(count, device=device) < sizes[:, :1]).flatten()

    def of_all(value: Tensor, is_prompt: bool = False) -> Tensor:
        below = (0, count - len(value))
        if value.ndim == 1:
            return ranks.gather(pad(value, below))[kept]
        beside = (prompt_width - value.shape[1], 0) if is_prompt else (0, width - value.shape[1])
        return ranks.gather(pad(value, (*beside, *below)))[kept]

    prompt = of_all(text.prompt_tokens, is_prompt=True), of_all(text.prompt_mask, is_prompt=True)
    return rows.changed(Text(*prompt, of_all(text.tokens), of_all(text.mask)), of_all)
