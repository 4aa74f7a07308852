"""Ids that no token belongs to, which are never sampled and have no probability.

Output heads are often wider than their tokenizer, for the sake of matrix sizes (Qwen2.5-7B: 152,064 against 151,665
tokens).  What a policy puts on such an id cannot be read, and would vanish when a response is decoded.  So the
distribution that is sampled from, scored and trained is that over the tokens; engines with weights of their own get
embeddings and a head without these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hapo_lit.errors import one_line
from hapo_lit.policy.deferred import is_deferred

BUFFER = "unreadable_ids"
"""Of the policy: ``[U] int64``, the ids without a token; absent where each has one."""


def hide_unreadable(policy: PreTrainedModel, tokenizer: Any) -> None:
    """Leave the ids without a token out of the policy's distribution from now on.

    Args:
        policy: it gets :data:`BUFFER`, which no ``state_dict`` holds.
        tokenizer: its tokenizer; None = it is not known, as in `hapo plan`, and nothing is left out.
    """
    if tokenizer is not None and (unreadable := ids_without_token(_rows(policy), tokenizer)):
        weight = policy.get_output_embeddings().weight
        ids = torch.tensor(unreadable, device="cpu" if is_deferred(policy) else weight.device)
        policy.register_buffer(BUFFER, ids, persistent=False)


def ids_without_token(rows: int, tokenizer: Any) -> list[int]:
    """Which ids of a head with so many rows no token belongs to."""
    known = set(tokenizer.get_vocab().values())
    return [index for index in range(rows) if index not in known]


def unreadable_ids(policy: torch.nn.Module) -> Tensor | None:
    """The ids without a token; None = each has one, or nobody has asked."""
    return getattr(policy, BUFFER, None)


def without_unreadable(logits: Tensor, unreadable: Tensor | None) -> Tensor:
    """Logits ``[..., V]`` with the least finite value at the ids without a token: their probability is exactly 0."""
    return logits if unreadable is None else logits.index_fill(-1, unreadable, torch.finfo(logits.dtype).min)


def token_rows(policy: PreTrainedModel) -> int:
    """How many rows of a policy's embeddings and head an engine with its own weights gets, see :func:`rows_left`."""
    unreadable = unreadable_ids(policy)
    return rows_left(_rows(policy), [] if unreadable is None else unreadable.tolist())


def rows_left(rows: int, unreadable: Sequence[int]) -> int:
    """How many of ``rows`` are left without those at the end that no token belongs to.

    Raises:
        ValueError: there are such ids between tokens.
    """
    left = rows - len(unreadable)
    if unreadable and unreadable[0] != left:
        raise ValueError(
            f"the id {unreadable[0]} has no token though later ones have, which vLLM cannot be told: use rollout=hf"
        )
    return left


def check_embeddings(policy: PreTrainedModel, tokenizer: Any) -> None:
    """Raise ``ValueError`` if text may become an id that the policy has no embedding for; padding may be one."""
    rows = policy.get_input_embeddings().weight.shape[0]
    beyond = {text for text, index in tokenizer.get_vocab().items() if index >= rows} - {tokenizer.pad_token}
    end = tokenizer.eos_token_id
    if beyond or (end is not None and end >= rows):
        shown = one_line(", ".join(map(repr, sorted(beyond or {tokenizer.eos_token}))), 100)
        raise ValueError(
            f"the model has embeddings for {rows} tokens and its tokenizer has more ({shown}): call "
            f"model.resize_token_embeddings(len(tokenizer)) and save both, or take the tokenizer that belongs to it"
        )


def _rows(policy: PreTrainedModel) -> int:
    return int(policy.get_output_embeddings().weight.shape[0])
