"""Responses as text: what cannot be read stays visible."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_group

from hapo_lit.training.decoding import UNREADABLE, decode_responses
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.verify.verifier import MathVerifier


@pytest.mark.parametrize("make", [ExactVerifier, MathVerifier])
def test_an_id_without_a_token_inside_an_answer_makes_it_another_answer(tokenizer, make):
    group = make_group([[0.0, 0.0]], lengths=[[5, 5]])
    right = tokenizer.convert_tokens_to_ids([r"\boxed{", "1", "2", "}", "<eos>"])
    group.tokens[0] = torch.tensor([right, [right[0], right[1], 30, *right[2:4]]])
    group.finished[0, 1] = False
    texts = decode_responses(group, tokenizer, torch.arange(24, 32))
    assert texts == [r"\boxed{12}", rf"\boxed{{1{UNREADABLE}2}}"]
    assert make()(texts, ["12", "12"]).tolist() == [1.0, 0.0]
