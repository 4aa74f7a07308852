"""The policy of a run as a Hugging Face folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from hapo_lit.errors import ResumeError
from hapo_lit.policy.adapters import merged
from hapo_lit.policy.loading import load_tokenizer, policy_like
from hapo_lit.storage.atomic import appearing
from hapo_lit.training.checkpoint_format import load_checked


def policy_weights(path: Path, beside: Path) -> dict[str, Any]:
    """The policy's parameters in a checkpoint; a sharded one is put together in a temporary folder in ``beside``.

    Raises:
        ResumeError: the checkpoint is damaged, or was written by something else.
    """
    weights = load_checked(path).get("module")
    if weights is None:
        with tempfile.TemporaryDirectory(dir=beside, prefix=".export-") as folder:
            dcp_to_torch_save(path, Path(folder) / "whole.pt")
            weights = torch.load(Path(folder) / "whole.pt", map_location="cpu", weights_only=False)["module"]
    prefix = "policy."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def export(weights: Mapping[str, Any], model: Path, lora: Mapping[str, Any] | None, out: Path) -> None:
    """Write a policy, an adapter merged in; the folder appears under its name only when it is complete.

    Args:
        weights: of the policy, by name.
        model: a folder with the policy's configuration and tokenizer.
        lora: the adapter's settings, or None.
        out: the folder to write; one that is there is replaced only by a complete one.
    """
    policy = policy_like(str(model), lora)
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise ResumeError(f"the checkpoint does not fit the model of its run in {model}: {error}") from error
    with appearing(out.resolve()) as draft:
        merged(policy).save_pretrained(draft)
        load_tokenizer(str(model)).save_pretrained(draft)
