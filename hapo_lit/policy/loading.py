"""Policies: loading one with its tokenizer, or making one."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import GENERATION_CONFIG_NAME

from hapo_lit.errors import cut, nearest
from hapo_lit.numerics.ranges import SettingError, check_seed
from hapo_lit.policy.adapters import adapter_settings, with_adapter
from hapo_lit.policy.attention import MASKED, check_installed, check_known, masked_attention
from hapo_lit.policy.compiling import check_backend, compile_layers
from hapo_lit.policy.deferred import SOURCE, WeightFiles, file_of, parameters_on_meta, places_of, without_memory
from hapo_lit.policy.model_config import check_heads, check_sizes, with_positions

NO_CODE = {"trust_remote_code": False}
"""For transformers, which would run Python files of a model's folder if a user at the terminal says so."""


def load_policy(
    path: str,
    dtype: str = "float32",
    attention: str = "sdpa",
    lora: Mapping[str, Any] | None = None,
    gradient_checkpointing: bool = False,
    positions: int | None = None,
    rope_theta: float | None = None,
    strategy: str = "auto",
    compiled: bool | str = False,
) -> PreTrainedModel:
    """A causal language model from a Hugging Face folder or hub id, with dropout off.

    With a LoRA adapter nothing else is trained, and the policy starts exactly at its base.  The adapter is float32
    whatever the base is, as in peft: in bfloat16 small updates would be rounded away.

    Args:
        path: folder or hub id.
        dtype: parameter dtype, ``float32`` or ``bfloat16``.
        attention: one of :data:`hapo_lit.policy.attention.ATTENTIONS`.
        lora: the adapter, see :data:`hapo_lit.policy.adapters.LORA`; None = none.
        gradient_checkpointing: True = a layer's activations are computed again in the backward pass instead of kept.
        positions: tokens of prompt and response together that the model takes; None = as its configuration says.
        rope_theta: base of the rotary embedding; None = as its configuration says.
        strategy: of the processes; ``fsdp`` = weights stay on the meta device until the model is sharded, and then each
            process reads its own part of them (:mod:`hapo_lit.policy.deferred`).
        compiled: see :func:`hapo_lit.policy.compiling.compile_layers`.

    Raises:
        ValueError: a key or value of ``lora`` is wrong, peft or the attention is not installed, the model has no such
            rotary embedding, or it changes its logits after its output head.
    """
    adapter = adapter_settings(lora)
    check_installed(attention)
    check_backend(compiled)
    _must_exist(path)
    config = with_positions(config_of(path), positions, rope_theta)
    kind = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    if strategy == "fsdp":
        deferred, otherwise = _deferred(path, config, kind, adapter, gradient_checkpointing)
        if deferred is not None:
            return compile_layers(deferred, compiled)
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(f"every process loads all of {path} before it is sharded, since {otherwise}", file=sys.stderr)
    with _without_its_code(path):
        model = AutoModelForCausalLM.from_pretrained(path, config=config, **kind, **NO_CODE)
    _check_head(model)
    return compile_layers(_trainable(model, adapter, gradient_checkpointing), compiled)


def _deferred(
    path: str,
    config: PreTrainedConfig,
    kind: Mapping[str, Any],
    adapter: Mapping[str, Any] | None,
    gradient_checkpointing: bool,
) -> tuple[PreTrainedModel | None, str]:
    """The model of :func:`load_policy` without its weights, which it gets when it is sharded; or None, and why."""
    with no_init_weights(), parameters_on_meta():
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **kind, **NO_CODE)
    model.tie_weights()
    if model.state_dict().keys() - {name for name, _ in model.named_parameters(remove_duplicate=False)}:
        return None, "it has buffers with contents of their own"
    if file_of(path, GENERATION_CONFIG_NAME):
        model.generation_config = GenerationConfig.from_pretrained(path)
    with torch.device("meta"):
        _check_head_of_shapes(AutoModelForCausalLM.from_config(copy.deepcopy(config), **kind, **NO_CODE))
    with without_memory(model):  # on the meta device peft would not make an adapter's weights
        model = _trainable(model, adapter, gradient_checkpointing)
    places, otherwise = places_of(model, path)
    if otherwise:
        return None, otherwise
    setattr(model, SOURCE, WeightFiles(places))
    return model, ""


def meta_model(
    path: str,
    shape: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
    lora: Mapping[str, Any] | None = None,
    gradient_checkpointing: bool = False,
    positions: int | None = None,
    rope_theta: float | None = None,
) -> PreTrainedModel:
    """What :func:`load_policy` would load, as shapes without contents (on torch's meta device), and without a hub.

    Args:
        path: a folder, whose ``config.json`` has the shape; otherwise ``shape`` has it.
        shape: ``model_type`` and fields of its configuration.
        attention: as there; what is installed here does not matter, as all but ``eager`` hold the same.
        dtype, lora, gradient_checkpointing, positions, rope_theta: see :func:`load_policy`.

    Raises:
        ValueError: nothing says what shape the model has, or its attention heads do not fit.
    """
    adapter = adapter_settings(lora)
    if Path(path).expanduser().is_dir():
        config = config_of(path)
    elif shape is not None:
        config = AutoConfig.for_model(**shape)
    else:
        _must_exist(path)
        raise ValueError(
            f"the shape of {path!r} is not known here: give model.shape, or a local folder as model.path (its "
            f"config.json is enough)"
        )
    check_heads(config)
    config = with_positions(config, positions, rope_theta)
    check_known(attention)
    fused = attention if attention in MASKED else "sdpa"
    kind = {"dtype": getattr(torch, dtype), "attn_implementation": fused}
    with torch.device("meta"):
        return _trainable(AutoModelForCausalLM.from_config(config, **kind, **NO_CODE), adapter, gradient_checkpointing)


def _trainable(
    model: PreTrainedModel, adapter: Mapping[str, Any] | None, gradient_checkpointing: bool
) -> PreTrainedModel:
    """The model ready for training: without dropout, with its adapter, checkpointing activations if wanted."""
    if gradient_checkpointing:
        set_checkpointing(model, True)
    return with_adapter(_without_dropout(model), adapter).train()


def set_checkpointing(model: PreTrainedModel, on: bool) -> None:
    """Compute a layer's activations again in the backward pass, or keep them."""
    if not on:
        model.gradient_checkpointing_disable()
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    # transformers hooks the embeddings for reentrant checkpoints, which lose gradients where no input has one
    model.disable_input_require_grads()


def policy_like(folder: str, lora: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """A model that the ``state_dict`` of a policy fits, with the same adapter; until then its weights are arbitrary.

    Args:
        folder: holds ``config.json``, whose dtype the model takes, and maybe ``generation_config.json``; no weights.
        lora: the policy's, as :func:`load_policy` took it.
    """
    adapter = adapter_settings(lora)
    _must_exist(folder)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config_of(folder), **NO_CODE)
    model.tie_weights()
    if (Path(folder) / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return with_adapter(_without_dropout(model), adapter)


def load_tokenizer(path: str, eos_token: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a policy; its padding token is its end-of-sequence token where it has none.

    A tokenizer that was saved as a general one is loaded as such: ``AutoTokenizer`` would rebuild it as the model
    type's own class (transformers 5.19 does so for ``qwen2``), which reads text by other rules without an error.

    Args:
        path: folder or hub id.
        eos_token: ends teachers; None = the tokenizer's own end of sequence.

    Raises:
        ValueError: there is no such token.
    """
    _must_exist(path)
    general = get_tokenizer_config(path).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    with _without_its_code(path):
        tokenizer = (PreTrainedTokenizerFast if general else AutoTokenizer).from_pretrained(path, **NO_CODE)
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise ValueError(f"model.tokenizer.eos_token={eos_token!r} is no token of {path}")
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@torch.no_grad()
def new_policy(
    architecture: str, sizes: Mapping[str, object], tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """A randomly initialised model of a transformers ``architecture`` (``qwen2``, ``llama``, ...).

    Args:
        architecture: transformers' ``model_type``.
        sizes: fields of the architecture's configuration (``hidden_size``, ``num_hidden_layers``, ...).
        tokenizer: gives vocabulary size and special ids.
        seed: of the initialisation; the global generator is left as it was.

    Raises:
        ValueError: the sizes make no model, or one that does not fit into memory.
    """
    check_sizes(sizes)
    try:
        config = AutoConfig.for_model(
            architecture,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **sizes,
        )
        check_heads(config)
        usual = AutoConfig.for_model("qwen2").to_dict()  # which others may do without
        known = {*type(config)().to_dict(), *config.attribute_map, *usual, "head_dim"}
        if unknown := sorted(sizes.keys() - known):
            raise ValueError(f"it has no size {unknown[0]}{nearest(unknown[0], known)}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(check_seed(seed))
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except SettingError:
        raise
    except Exception as error:  # whatever transformers stumbles over
        reason = cut(" ".join(str(error).split()), 300)
        raise ValueError(f"model.policy.sizes make no {architecture} model: {reason}") from error
    length = min(32, getattr(config, "max_position_embeddings", None) or 32)  # attention may pass over NaN in a few
    logits = model(torch.arange(length, device=model.device)[None] % len(tokenizer)).logits
    if logits.device.type != "meta" and not bool(logits.isfinite().all()):
        raise ValueError(f"model.policy.sizes make a {architecture} model whose logits are not finite: correct them")
    return _without_dropout(model)


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse models that change their logits after the output head (soft caps, scales).

    :mod:`hapo_lit.policy.scoring` does not, so the policy would be trained on other probabilities than it samples
    from.
    """
    tokens = torch.arange(1, 5, device=model.device)[None] % model.config.vocab_size
    with masked_attention(model):
        hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        logits = model(input_ids=tokens, use_cache=False).logits
    if not torch.allclose(model.get_output_embeddings()(hidden).float(), logits.float(), atol=1e-2, rtol=1e-2):
        raise ValueError(_changes_logits(model))


@torch.no_grad()
def _check_head_of_shapes(model: PreTrainedModel) -> None:
    """:func:`_check_head` on the meta device: the head gets the very tensor that the decoder returns, and its result is
    returned as it is.  The model loses its layers, some of which depend on values."""
    passed: list[Tensor] = []
    model.get_decoder().layers = nn.ModuleList()
    model.get_decoder().register_forward_hook(lambda _, _inputs, output: passed.append(output.last_hidden_state))
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: passed.extend((*inputs, output)))
    tokens = torch.zeros(1, 4, dtype=torch.int64, device="meta")
    mask = torch.zeros(1, 1, 4, 4, dtype=model.dtype, device="meta")  # that of transformers would depend on values
    passed.append(model(input_ids=tokens, attention_mask=mask, use_cache=False).logits)
    left, entered, made, returned = (tensor.untyped_storage()._cdata for tensor in passed)
    if left != entered or made != returned or passed[-1]._version:
        raise ValueError(_changes_logits(model))


def _changes_logits(model: PreTrainedModel) -> str:
    return (
        f"{model.config.model_type} models change their logits after the output head, which is not supported; "
        f"choose another model.path (Qwen2, Llama and their like)"
    )


def _without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Dropout would make π_θ and π_old differ at the same weights; RL fine-tuning goes without."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for holder in (model.config, *model.modules()):  # attention layers copy their rate from the configuration
        for name, value in vars(holder).items():
            if "drop" in name and isinstance(value, float):
                setattr(holder, name, 0.0)
    return model


def config_of(path: str) -> PreTrainedConfig:
    """The configuration in a model's folder or hub id.

    Raises:
        ValueError: it needs code that comes with it.
    """
    with _without_its_code(path):
        config = AutoConfig.from_pretrained(path, **NO_CODE)
    config._attn_implementation = config._experts_implementation = None  # they may name kernels of the hub
    return config


@contextmanager
def _without_its_code(path: str) -> Iterator[None]:
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(f"{path} holds weights that could run code: save them as safetensors") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{path} brings code of its own, which is never run: choose a model and a tokenizer that transformers has"
        ) from error


def _must_exist(path: str) -> None:
    """A path that looks like a folder, or begins with one, must be one; everything else is taken for a hub id."""
    folder = Path(path).expanduser()
    local = path.startswith(("/", ".", "~")) or path.count("/") > 1 or Path(folder.parts[0]).is_dir()
    if local and not folder.is_dir():
        raise FileNotFoundError(f"model folder {path!r} does not exist; set model.path to a Hugging Face folder or id")
