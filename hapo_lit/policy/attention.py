"""Implementations of attention (``model.attention``): where they run, and what they are good for.

``sdpa`` and ``eager`` compute every pair of tokens and hide some of them by a mask.  Flash attention and flex attention
leave out what is hidden, so that rows of different length cost no more in one sequence than each by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_kernels_available

from hapo_lit.policy.deferred import is_deferred

MASKED = ("sdpa", "eager")
"""Compute what the mask hides.  They alone take the masks with which cached keys are read in decoding."""
FLASH = {
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available),
    "flash_attention_3": ("flash-attn-3", is_flash_attn_3_available),
}
"""Name -> its package, and whether that is installed and there is a GPU for it."""
ATTENTIONS = (*MASKED, *FLASH, "flex_attention")


def check_known(attention: str) -> None:
    """Raise ``ValueError`` unless there is such an implementation."""
    if attention not in ATTENTIONS:
        raise ValueError(f"model.attention={attention} is not known: set one of {', '.join(ATTENTIONS)}")


def check_installed(attention: str) -> None:
    """Raise ``ValueError`` unless there is such an implementation here."""
    check_known(attention)
    if attention in FLASH:
        package, installed = FLASH[attention]
        if not installed() and not is_kernels_available():
            raise ValueError(
                f"model.attention={attention} needs a CUDA device and the package {package} (or kernels), and one of "
                f"them is missing here: install it, or set model.attention=sdpa"
            )


def check_runs(policy: PreTrainedModel, device: str, mixed: bool) -> None:
    """:func:`check_trains` for a policy as it was loaded."""
    check_trains(_attention_of(policy), policy.dtype, device, mixed)


def check_trains(attention: str, dtype: torch.dtype, device: str, mixed: bool) -> None:
    """Raise ``ValueError`` if an attention does not train on such a device, in such a precision.

    Args:
        attention: one of :data:`ATTENTIONS`.
        dtype: of the policy's weights.
        device: its kind, such as ``cuda``.
        mixed: True = passes are in bfloat16.
    """
    if attention in MASKED:
        return
    if device == "cpu":
        raise ValueError(f"model.attention={attention} does not train on a CPU: set model.attention=sdpa")
    if "flash" in attention and not mixed and dtype == torch.float32:
        raise ValueError(f"model.attention={attention} does not compute in float32: set precision=bf16-mixed")


def leaves_padding_out(policy: PreTrainedModel, wanted: bool | None) -> bool:
    """Whether the rows of a pass are one sequence without padding (``padding_free`` in TRL).

    Args:
        policy: whose passes they are.
        wanted: None = where attention leaves out what is hidden, so that it pays, and the model can do it.

    Raises:
        ValueError: it is wanted, and the model cannot.
    """
    if wanted is None:
        return _attention_of(policy) not in MASKED and keeps_rows_apart(policy)
    if wanted and not keeps_rows_apart(policy):
        raise ValueError(
            f"module.padding_free=true: in {policy.config.model_type} models rows of one sequence see one another: set "
            f"module.padding_free=false"
        )
    return wanted


@torch.no_grad()
def keeps_rows_apart(policy: PreTrainedModel) -> bool:
    """Whether a row has the same hidden states by itself and after another in one sequence, where positions restart.

    A model that gets its weights later is tried in small; one without contents at all, in a plan, is taken at its word.
    """
    if is_deferred(policy):
        policy = _small_like(policy)
    if policy.device.type == "meta":
        return True
    tokens = torch.arange(1, 6, device=policy.device)[None] % policy.config.get_text_config().vocab_size
    positions = torch.tensor([[0, 1, 2, 0, 1]], device=policy.device)
    with masked_attention(policy):
        together, alone = (
            policy.get_decoder()(input_ids=tokens[:, first:], position_ids=positions[:, first:], use_cache=False)
            for first in (0, 3)
        )
    return torch.allclose(together.last_hidden_state[:, 3:], alone.last_hidden_state, atol=1e-2, rtol=1e-2)


def _small_like(policy: PreTrainedModel) -> PreTrainedModel:
    """One layer of a model, with weights and few tokens."""
    config = copy.deepcopy(policy.config.get_text_config())
    config.num_hidden_layers, config.vocab_size = 1, 8
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    if config._attn_implementation not in MASKED:
        config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        small: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return small.eval()


@contextmanager
def masked_attention(policy: PreTrainedModel) -> Iterator[None]:
    """Inside, attention is one that takes any mask and runs anywhere: the policy's own, or else ``sdpa``."""
    attention = _attention_of(policy)
    if attention in MASKED:
        yield
        return
    policy.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        policy.config._attn_implementation = attention


def _attention_of(policy: PreTrainedModel) -> str:
    return str(policy.config._attn_implementation)
