"""Prompts for an engine, and what it answered."""

from __future__ import annotations

import torch
from support.builders import make_group, make_prompts

from hapo_lit.rollout.hf import HFEngine
from hapo_lit.types import PromptBatch


def prompt_batch(count=4, seed=0, width=6):
    group = make_group([[0.0]] * count, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, width + 1, (count,), generator=draw)
    prompts = make_prompts(group, [1] * count)
    return PromptBatch(
        prompt_ids=prompts.prompt_ids,
        tokens=torch.randint(4, 24, (count, width), generator=draw),
        mask=torch.arange(width) >= width - lengths[:, None],
        answers=prompts.answers,
        teacher_tokens=prompts.teacher_tokens,
        teacher_mask=prompts.teacher_mask,
        teacher_rewards=prompts.teacher_rewards,
    )


def engine(policy, **settings):
    made = HFEngine(**{"max_new_tokens": 20, **settings})
    made.sync(policy)
    return made


def take(prompts, index):
    return PromptBatch(
        **{
            name: getattr(prompts, name)[index]
            for name in ("prompt_ids", "tokens", "mask", "teacher_tokens", "teacher_mask", "teacher_rewards")
        },
        answers=tuple(prompts.answers[i] for i in index),
    )


def responses(group):
    """Per prompt and sample, the response's tokens without padding."""
    return [[t[m].tolist() for t, m in zip(*pair, strict=True)] for pair in zip(group.tokens, group.mask, strict=True)]
