"""Prompts and responses as text."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hapo_lit.types import RolloutGroup

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""Stands for an id without a token."""


def decode_responses(
    group: RolloutGroup, tokenizer: PreTrainedTokenizerBase, unreadable: Tensor | None = None
) -> list[str]:
    """The ``P * G`` responses of a group, without the token that ended them.

    Other special tokens stay visible: an answer with padding in its middle is not the answer.  So do ids without a
    token (``unreadable``), which an engine that does not know them may return, as :data:`UNREADABLE`.
    """
    lengths = (group.mask.flatten(0, 1).sum(1) - group.finished.flatten().long()).clamp(min=0)
    rows = zip(group.tokens.flatten(0, 1).tolist(), lengths.tolist(), strict=True)
    responses = [tokens[:length] for tokens, length in rows]
    if unreadable is not None and bool((torch.isin(group.tokens, unreadable) & group.mask).any()):
        hidden = set(unreadable.tolist())
        return [_visibly(tokens, tokenizer, hidden) for tokens in responses]
    texts: list[str] = tokenizer.batch_decode(responses, clean_up_tokenization_spaces=False)
    return texts


def _visibly(tokens: list[int], tokenizer: PreTrainedTokenizerBase, hidden: set[int]) -> str:
    """One response, decoded run by run between the ids without a token."""
    runs = [
        UNREADABLE * len(list(run)) if is_hidden else tokenizer.decode(list(run), clean_up_tokenization_spaces=False)
        for is_hidden, run in groupby(tokens, hidden.__contains__)
    ]
    return "".join(runs)


def decode_prompts(group: RolloutGroup, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The ``P`` prompts of a group, without special tokens."""
    pairs = zip(group.prompt_tokens, group.prompt_mask, strict=True)
    texts: list[str] = tokenizer.batch_decode(
        [tokens[mask].tolist() for tokens, mask in pairs], skip_special_tokens=True
    )
    return texts
