"""The policy of a run as a Hugging Face folder."""

from __future__ import annotations

import pytest
import torch
from support.tiny_qwen import qwen_tokenizer
from transformers import AutoTokenizer

from hapo_lit.errors import ResumeError
from hapo_lit.policy.loading import load_policy, load_tokenizer
from hapo_lit.training.export import export


def test_an_export_is_a_hugging_face_folder_and_replaces_only_when_it_is_complete(make_policy, tokenizer, tmp_path):
    policy = make_policy(tie_word_embeddings=True)
    policy.config.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert export(policy.state_dict(), tmp_path / "model", None, tmp_path / "out") == ""
    loaded = load_policy(str(tmp_path / "out"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), policy.parameters(), strict=True))
    assert load_tokenizer(str(tmp_path / "out")).get_vocab() == tokenizer.get_vocab()
    prompt = "Compute 3+4.\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(prompt)["input_ids"] == tokenizer(prompt)["input_ids"]
    with pytest.raises(ResumeError, match="does not fit the model of its run"):
        export(make_policy(hidden_size=64).state_dict(), tmp_path / "model", None, tmp_path / "out")
    assert all(
        torch.equal(a, b)
        for a, b in zip(load_policy(str(tmp_path / "out")).parameters(), policy.parameters(), strict=True)
    )


def test_an_export_that_others_read_otherwise_says_so(tmp_path, make_policy):
    """Beside a Qwen2, transformers puts Qwen2's own pre-tokenizer in the place of any other."""
    tokenizer = qwen_tokenizer()  # it has the token 12, and Qwen2 splits digits
    policy = make_policy()
    policy.config.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    said = export(policy.state_dict(), tmp_path / "model", None, tmp_path / "out")
    assert "AutoTokenizer, and so vLLM, reads the tokenizer" in said
    assert "as Qwen2Tokenizer, which gives other ids" in said
