"""Tiny policies, hand-made groups and rows, and complete fakes of two protocols."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.device_memory import DeviceMemory, RolloutBatch, SamplingMemory
from hapo_lit.policy.loading import new_policy
from hapo_lit.rows import Rows, Text
from hapo_lit.types import PromptBatch, RolloutGroup

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def write_base(folder) -> None:
    """A Hugging Face folder with a tiny random policy and its tokenizer, in place of the base policy."""
    tokenizer = arithmetic_tokenizer()
    new_policy("qwen2", {**TINY, "tie_word_embeddings": True}, tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_group(
    rewards: Sequence[Sequence[float]],
    teacher: Sequence[Sequence[int]] | None = None,
    present: Sequence[Sequence[int]] | None = None,
    lengths: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> RolloutGroup:
    """A group with these ``[P, G]`` rewards; lengths and tokens are drawn unless given."""
    reward = torch.tensor(rewards, dtype=torch.float32)
    prompts, size = reward.shape
    draw = torch.Generator().manual_seed(seed)
    length = torch.tensor(lengths) if lengths else torch.randint(1, 7, (prompts, size), generator=draw)
    width = int(length.max())
    mask = torch.arange(width) < length[..., None]
    prompt_length = torch.randint(1, 5, (prompts,), generator=draw)
    return RolloutGroup(
        prompt_ids=torch.arange(prompts) + 100,
        prompt_tokens=torch.randint(4, 24, (prompts, 4), generator=draw),
        prompt_mask=torch.arange(4) >= 4 - prompt_length[:, None],
        tokens=torch.randint(4, 24, (prompts, size, width), generator=draw),
        mask=mask,
        rewards=reward,
        finished=torch.ones(prompts, size, dtype=torch.bool),
        is_teacher=torch.tensor(teacher).bool() if teacher else torch.zeros(prompts, size, dtype=torch.bool),
        present=torch.tensor(present).bool() if present else torch.ones(prompts, size, dtype=torch.bool),
        behaviour_logprobs=torch.where(mask, -torch.rand(prompts, size, width, generator=draw), 0.0),
    )


def make_rows(
    advantages: Sequence[float],
    old: Sequence[float] | None = None,
    reference: Sequence[float] | None = None,
    is_teacher: Sequence[bool] | None = None,
    weights: Sequence[float] | None = None,
    behaviour: Sequence[float] | None = None,
    confidence: float = 0.5,
    width: int = 1,
    step: int = 0,
) -> Rows:
    """Rows in float64, ``width`` tokens each; token values are given row after row."""
    count = len(advantages)

    def tokens_of(values: Sequence[float] | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.float64).reshape(count, width)

    mask = torch.ones(count, width, dtype=torch.bool)
    tokens = torch.full((count, width), 5)
    even = torch.full((count, width), 1 / (count * width), dtype=torch.float64)
    return Rows(
        text=Text(tokens, mask, tokens, mask),
        is_teacher=torch.tensor(is_teacher or [False] * count),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        token_weights=even if weights is None else tokens_of(weights),
        confidence=torch.full((count,), confidence, dtype=torch.float64),
        old_logprobs=tokens_of(old),
        reference_logprobs=tokens_of(reference),
        behaviour_logprobs=tokens_of(behaviour),
        step=step,
    )


def make_prompts(group: RolloutGroup, teacher_rewards: Sequence[float], teacher_length: int = 9) -> PromptBatch:
    """Prompts to go with a group; teacher tokens are all 23 and longer than any rollout of ``make_group``."""
    count = len(group.prompt_ids)
    return PromptBatch(
        prompt_ids=group.prompt_ids,
        tokens=group.prompt_tokens,
        mask=group.prompt_mask,
        answers=tuple(str(index) for index in range(count)),
        teacher_tokens=torch.full((count, teacher_length), 23),
        teacher_mask=torch.ones(count, teacher_length, dtype=torch.bool),
        teacher_rewards=torch.tensor(teacher_rewards, dtype=torch.float32),
    )


class ScriptedEngine:
    """A rollout engine that hands out a prepared group: the first ``group_size`` rows of it."""

    is_trainer = True
    temperature = 1.0

    def __init__(self, group: RolloutGroup, is_trainer: bool = True) -> None:
        self.group, self.is_trainer = group, is_trainer
        self.synced: list[torch.nn.Module] = []

    def sync(self, policy: torch.nn.Module) -> None:
        self.synced.append(policy)

    def with_temperature(self, temperature: float) -> ScriptedEngine:
        return self

    def stops(self, policy: torch.nn.Module) -> list[int]:
        return [2]

    def sleep(self) -> None:
        self.asleep = True

    def close(self) -> None:
        self.closed = True

    def memory(
        self, policy: torch.nn.Module, batch: RolloutBatch, device: DeviceMemory | None = None
    ) -> SamplingMemory:
        return SamplingMemory({}, batch.sequences)

    def generate(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        group = self.group
        cut = {
            name: getattr(group, name)[:, :group_size]
            for name in ("tokens", "mask", "finished", "is_teacher", "present", "behaviour_logprobs")
        }
        return RolloutGroup(
            prompt_ids=prompts.prompt_ids,
            prompt_tokens=prompts.tokens,
            prompt_mask=prompts.mask,
            rewards=torch.zeros(len(prompts.answers), group_size),
            **cut,
        )

    def metrics(self) -> dict[str, float]:
        return {"rollout/tokens": float(self.group.mask.sum())}


class ScriptedVerifier:
    """A verifier that knows its verdicts beforehand, in flattened order."""

    def __init__(self, rewards: Sequence[Sequence[float]]) -> None:
        self.rewards = torch.tensor(rewards, dtype=torch.float32)

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> Tensor:
        assert len(responses) == len(answers)
        size = len(responses) // len(self.rewards)
        return self.rewards[:, :size].flatten()

    def metrics(self) -> dict[str, float]:
        return {}
