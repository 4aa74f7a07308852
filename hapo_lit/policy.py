"""Policies: loading one, making one, and its token log-probabilities without ever building ``[N, T, V]`` logits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from hapo_lit.types import Text

LOGITS_PER_CHUNK = 2**24
"""How many logits may exist at once: 64 MiB in float32."""


def load_policy(path: str, dtype: str = "float32", attention: str = "sdpa") -> PreTrainedModel:
    """A causal language model from a Hugging Face folder or hub id, with dropout off.

    Args:
        path: folder or hub id.
        dtype: parameter dtype, ``float32`` or ``bfloat16``.
        attention: ``sdpa`` or ``eager``.
    """
    _must_exist(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation=attention)
    _check_head(model)
    return _without_dropout(model).train()


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a policy; its padding token is its end-of-sequence token where it has none.

    A tokenizer that was saved as a general one is loaded as such: ``AutoTokenizer`` would rebuild it as the model
    type's own class (transformers 5.19 does so for ``qwen2``), which reads text by other rules without an error.
    """
    _must_exist(path)
    general = get_tokenizer_config(path).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    tokenizer = (PreTrainedTokenizerFast if general else AutoTokenizer).from_pretrained(path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def new_policy(
    architecture: str, sizes: Mapping[str, object], tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """A randomly initialised model of a transformers ``architecture`` (``qwen2``, ``llama``, ...).

    Args:
        architecture: transformers' ``model_type``.
        sizes: fields of the architecture's configuration (``hidden_size``, ``num_hidden_layers``, ...).
        tokenizer: gives vocabulary size and special ids.
        seed: of the initialisation; the global generator is left as it was.
    """
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return _without_dropout(model)


def positions(mask: Tensor) -> Tensor:
    """``[N, L] bool`` -> position ids that start at 0 on the first unpadded token."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def token_logprobs(
    policy: PreTrainedModel,
    text: Text,
    temperature: float = 1.0,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the response tokens, and the entropies there.

    The transformer runs once over ``[N, S + T]``.  Only hidden states that predict a response token meet the output
    head, in chunks; more than one chunk are recomputed in the backward pass instead of kept.

    Args:
        policy: a causal language model.
        text: prompts and responses; the responses are scored.
        temperature: logits are divided by it, so that these are the probabilities of the distribution sampled from.
        logits_per_chunk: bound on the logits alive at once.
        entropy_gradient: True = the entropies have a gradient too, for an entropy bonus.

    Returns:
        ``[N, T]`` log-probabilities and ``[N, T]`` entropies (in nats); both 0 off the mask.
    """
    width = text.tokens.shape[1]
    mask = torch.cat([text.prompt_mask, text.mask], 1)
    hidden = policy.get_decoder()(
        input_ids=torch.cat([text.prompt_tokens, text.tokens], 1),
        attention_mask=mask.long(),
        position_ids=positions(mask),
        use_cache=False,
    ).last_hidden_state[:, -width - 1 : -1]
    hidden_M, target_M = hidden[text.mask], text.tokens[text.mask]

    head = policy.get_output_embeddings()
    size = max(1, logits_per_chunk // head.weight.shape[0])
    keep = len(target_M) <= size or not torch.is_grad_enabled()
    chunks = [
        _head_logprobs(head, *chunk, temperature, entropy_gradient)
        if keep
        else checkpoint(_head_logprobs, head, *chunk, temperature, entropy_gradient, use_reentrant=False)
        for chunk in zip(hidden_M.split(size), target_M.split(size), strict=True)
    ]
    logprobs_M, entropy_M = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    off = torch.zeros(text.mask.shape, dtype=logprobs_M.dtype, device=logprobs_M.device)
    return off.masked_scatter(text.mask, logprobs_M), off.masked_scatter(text.mask, entropy_M)


def _head_logprobs(
    head: nn.Module, hidden: Tensor, target: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    total = logits.logsumexp(-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = total - ((logits - total[:, None]).exp() * logits).sum(-1)
    return logits.gather(-1, target[:, None]).squeeze(-1) - total, entropy


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse models that change their logits after the output head (soft caps, scales): :func:`token_logprobs` does
    not, so the policy would be trained on other probabilities than it samples from."""
    tokens = torch.arange(1, 5, device=model.device)[None] % model.config.vocab_size
    hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    logits = model(input_ids=tokens, use_cache=False).logits
    if not torch.allclose(model.get_output_embeddings()(hidden).float(), logits.float(), atol=1e-2, rtol=1e-2):
        raise ValueError(
            f"{model.config.model_type} models change their logits after the output head, which is not supported; "
            f"choose another model.path (Qwen2, Llama and their like)"
        )


def _without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Dropout would make π_θ and π_old differ at the same weights; RL fine-tuning goes without."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name in ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    return model


def _must_exist(path: str) -> None:
    """A path that looks like a folder, or begins with one, must be one; everything else is taken for a hub id."""
    folder = Path(path).expanduser()
    local = path.startswith(("/", ".", "~")) or path.count("/") > 1 or Path(folder.parts[0]).is_dir()
    if local and not folder.is_dir():
        raise FileNotFoundError(f"model folder {path!r} does not exist; set model.path to a Hugging Face folder or id")
