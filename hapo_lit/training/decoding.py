"""Prompts and responses as text."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from hapo_lit.types import RolloutGroup


def decode_responses(group: RolloutGroup, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The ``P * G`` responses of a group, without the token that ended them.

    Other special tokens stay visible: an answer with padding in its middle is not the answer.
    """
    lengths = (group.mask.flatten(0, 1).sum(1) - group.finished.flatten().long()).clamp(min=0)
    rows = zip(group.tokens.flatten(0, 1).tolist(), lengths.tolist(), strict=True)
    texts: list[str] = tokenizer.batch_decode(
        [tokens[:length] for tokens, length in rows], clean_up_tokenization_spaces=False
    )
    return texts


def decode_prompts(group: RolloutGroup, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The ``P`` prompts of a group, without special tokens."""
    pairs = zip(group.prompt_tokens, group.prompt_mask, strict=True)
    texts: list[str] = tokenizer.batch_decode(
        [tokens[mask].tolist() for tokens, mask in pairs], skip_special_tokens=True
    )
    return texts
