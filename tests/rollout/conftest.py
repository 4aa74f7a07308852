"""Engines of every kind, and the one vLLM server of a test run."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import pytest
from support.builders import write_base
from support.policies import LIMIT, NARROW, PROMPT
from support.servers import NEEDS_VLLM, SERVED, serving

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.policy.adapters import merged
from hapo_lit.rollout.hf import HFEngine

ENGINES = ["hf", *(pytest.param(name, marks=NEEDS_VLLM) for name in ("vllm", "vllm_server"))]


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The address of a server for ``support.policies.policy_of()``."""
    folder = tmp_path_factory.mktemp("served")
    write_base(folder / "base")
    with serving(folder, "model.path=./base", *SERVED) as (url, _):
        yield url


@pytest.fixture
def server_for(request, tmp_path):
    """``policy`` -> the address of a server for models of its shape."""
    with ExitStack() as stack:

        def address(policy):
            shape = policy.config
            if (shape.model_type, shape.tie_word_embeddings, shape.hidden_size) == (
                "qwen2",
                True,
                NARROW["hidden_size"],
            ):
                return request.getfixturevalue("served")
            merged(policy).save_pretrained(tmp_path / "model")
            arithmetic_tokenizer().save_pretrained(tmp_path / "model")
            return stack.enter_context(serving(tmp_path, f"model.path={tmp_path / 'model'}", *SERVED))[0]

        yield address


@pytest.fixture(params=ENGINES)
def make(request, server_for):
    """``(policy, **settings)`` -> an engine of the kind that is the parameter, not yet synced."""
    kind = request.param

    def made(policy, **settings):
        settings = {"max_new_tokens": LIMIT, **settings}
        if kind == "hf":
            return HFEngine(**settings)
        if kind == "vllm":
            from hapo_lit.rollout.vllm import VLLMEngine

            plan = {"max_prompt_tokens": PROMPT, "prompts_per_step": 32, "group_size": 4}
            return VLLMEngine(**plan, max_model_len=PROMPT + LIMIT, **settings)
        from hapo_lit.rollout.vllm_server import VLLMServerEngine

        return VLLMServerEngine([server_for(policy)], **settings)

    return made


@pytest.fixture(scope="module", autouse=True)
def _end_vllm():
    """No engine of these tests stays in this process."""
    yield
    if "hapo_lit.rollout.vllm_process" in sys.modules:
        sys.modules["hapo_lit.rollout.vllm_process"].ProcessVLLM.end()
