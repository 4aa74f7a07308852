"""Decoder layers compiled by ``torch.compile``, for passes in training; sampling runs them as they are."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from transformers import PreTrainedModel

COMPILED = "compiled"
"""Of a policy whose layers compile themselves: by what."""


def check_backend(compiled: bool | str) -> None:
    """Raise ``ValueError`` unless there is such a backend of ``torch.compile``."""
    if not isinstance(compiled, bool) and compiled not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())  # those for debugging are taken, and not listed
        raise ValueError(f"model.compile must be true, false or a backend of torch.compile ({known}), got {compiled!r}")


def compile_layers(policy: PreTrainedModel, compiled: bool | str) -> PreTrainedModel:
    """Let the decoder layers of a policy compile themselves in their passes, in place: names stay as they are.

    Layers are alike, so that each is quick to compile; embeddings, head and losses stay as they are.

    Args:
        policy: its copies are not compiled.
        compiled: False = no; True = torch's own backend, inductor; or the name of another.
    """
    if compiled is not False:
        for layer in policy.get_decoder().layers:
            layer.compile(backend="inductor" if compiled is True else compiled)
        setattr(policy, COMPILED, compiled)
    return policy


def compiled_copy(policy: PreTrainedModel) -> PreTrainedModel:
    """A copy of a policy that compiles itself as the policy does."""
    return compile_layers(copy.deepcopy(policy), getattr(policy, COMPILED, False))


def as_written(policy: PreTrainedModel) -> AbstractContextManager:
    """Inside, a policy's layers run as they are written: every token of a response would be another shape."""
    is_compiled = getattr(policy, COMPILED, False) is not False
    if not is_compiled or all(layer._compiled_call_impl is None for layer in policy.get_decoder().layers):
        return nullcontext()  # as what follows takes seconds to import
    stance: AbstractContextManager = torch.compiler.set_stance("force_eager")
    return stance
