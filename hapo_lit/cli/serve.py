"""``hapo serve``: starts the vLLM server that a run with ``rollout=vllm_server`` samples from.

It takes the settings of the run, so that both have the same model and limits, and log-probabilities of the same kind.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra import compose
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from transformers import PreTrainedConfig

from hapo_lit.cli.plan import without_contents
from hapo_lit.cli.setup import build, setting_up
from hapo_lit.device_memory import RolloutBatch
from hapo_lit.errors import SetupError
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.policy.loading import config_of, load_policy
from hapo_lit.policy.model_config import with_positions
from hapo_lit.policy.vocabulary import ids_without_token, rows_left
from hapo_lit.rollout.heads import served_config
from hapo_lit.rollout.server_guard import GUARD, TOKENS_VARIABLE
from hapo_lit.rollout.server_token import VARIABLE, made_token
from hapo_lit.rollout.vllm import LOGPROBS, MAX_SEQUENCES, cache_bytes
from hapo_lit.rollout.vllm_process import ENVIRONMENT, INSTALL
from hapo_lit.rollout.vllm_server import SAMPLES, VLLMServerEngine


def main(config: DictConfig) -> None:
    """Turn this process into vLLM's server; Ctrl-C ends it."""
    if find_spec("vllm") is None:
        raise SetupError(f"`hapo serve` needs vLLM; {INSTALL}")
    source = config.model.path or "the base policy"
    (engine,) = build(config, "rollout")
    if not isinstance(engine, VLLMServerEngine):
        raise SetupError("`hapo serve` starts a server for a run with rollout=vllm_server: give that setting too")
    with setting_up():
        tokenizer = instantiate(config.model.tokenizer if config.model.path else compose("pretrain").model.tokenizer)
        policy = configuration(config)
        tokens = rows_left(policy.vocab_size, ids_without_token(policy.vocab_size, tokenizer))
        served = served_config(policy, tokens)
        name = stable_hash(served.to_json_string()).hex()
        folder = Path(config.paths.cache, "served", name)
        served.save_pretrained(folder)
        check_free(engine.servers[0].url)
    command = arguments(config, engine, served, folder)
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # the routes for weights are there only then
    token, where = made_token()
    os.environ |= {VARIABLE: token, TOKENS_VARIABLE: str(served.vocab_size)}
    print(f"serving {source} at {engine.servers[0].url} to those who have the token in {where}", flush=True)
    for other in engine.servers[1:]:
        print(f"{other.url} is another server's: start it with rollout.urls=[{other.url}]", flush=True)
    os.execv(sys.executable, command)


def check_free(url: str) -> None:
    """Raise ``ValueError`` unless a server can listen at an address; vLLM would say so after half a minute."""
    address = urlsplit(url)
    try:
        socket.create_server((address.hostname or "", address.port or 80)).close()
    except OSError as error:
        raise ValueError(
            f"rollout.urls=[{url}]: nothing can listen there ({error.strerror}); stop what does, or set another port"
        ) from error


def configuration(config: DictConfig) -> PreTrainedConfig:
    """The policy's configuration; no weights are loaded for it."""
    model = config.model
    named = get_object(model.policy._target_) is load_policy and model.path is not None
    if named and not Path(model.path).is_dir() and model.get("shape") is None:  # on a hub
        found = config_of(model.path)
        return with_positions(found, model.policy.positions, model.policy.rope_theta)
    without_contents(config)
    return instantiate(model.policy, _convert_="all").config  # type: ignore[no-any-return]


def arguments(config: DictConfig, engine: VLLMServerEngine, model: PreTrainedConfig, folder: Path) -> list[str]:
    """The command line of vLLM's server."""
    import torch

    address = urlsplit(engine.servers[0].url)
    dtype = engine.dtype or str(model.dtype).removeprefix("torch.")
    batch = RolloutBatch.largest(
        config.prompts_per_step, 1, config.group_size, config.max_prompt_tokens, config.max_response_tokens
    )
    sequences = max(SAMPLES, min(MAX_SEQUENCES, batch.sequences))
    settings: dict[str, Any] = {
        "model": folder,
        "host": address.hostname,
        "port": address.port or 80,
        "load-format": "dummy",  # weights come from the trainer
        "dtype": dtype,
        "max-model-len": batch.tokens,
        "max-num-seqs": sequences,
        "logprobs-mode": LOGPROBS,
        "max-logprobs": 1,
        "generation-config": "vllm",
        "weight-transfer-config": f'{{"backend": "hapo_{engine.transfer}"}}',
        "uvicorn-log-level": "warning",
        "middleware": GUARD,
    }
    flags = ["tokens-only", "disable-log-stats"]
    if not torch.cuda.is_available():
        flags.append("enforce-eager")
        settings["kv-cache-memory-bytes"] = cache_bytes(model, dtype, sequences, batch.tokens)
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    words += [f"--{name}" for name in flags] + list(engine.options)
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
