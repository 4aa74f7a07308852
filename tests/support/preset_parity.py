"""A preset's own parts on one fixed batch, beside the formula of its script or paper in plain torch.

The batch has random logits for every token of every rollout and teacher, and log-probabilities of an older policy, so
that ratios are not 1.  Loss and gradient in the logits must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from support.builders import ScriptedEngine, ScriptedVerifier
from support.configs import composed
from torch import Tensor
from torch.nn.functional import pad

from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.protocols import ALONE
from hapo_lit.types import PromptBatch, RolloutGroup

VOCABULARY, LONGEST, PROMPT = 7, 6, 4


class Answer(NamedTuple):
    """One response, as a formula sees it; tensors are over its tokens."""

    reward: float
    logprobs: Tensor
    old: Tensor
    reference: Tensor
    entropy: Tensor
    prompt_tokens: int


class Batch(NamedTuple):
    """By prompt: its rollouts, its teacher where there is a usable one, and what the gate said."""

    rollouts: list[list[Answer]]
    teachers: list[Answer | None]
    opened: list[bool]


class DoubleEngine(ScriptedEngine):
    """Rewards in float64, and with them all that follows."""

    def generate(self, prompts, group_size, step):
        group = super().generate(prompts, group_size, step)
        return replace(group, rewards=group.rewards.double())


@dataclass
class Fixed:
    """The fixed batch: its group before injection, its prompts, and the logits."""

    group: RolloutGroup
    prompts: PromptBatch
    logits: Tensor
    """``[P, G + 1, T, V]``, those of the teacher last."""
    noise: Tensor
    """``[P, G + 1, T]`` log π_old − log π."""

    def terms(self, group: RolloutGroup) -> dict[str, Tensor]:
        """``[P, G', T]`` log-probabilities and entropies of a group's rows, wherever the teacher is among them."""
        width = group.tokens.shape[2]
        teacher = self.logits[:, -1:].expand(-1, group.tokens.shape[1], -1, -1)
        rollouts = pad(self.logits[:, :-1], (0, 0, 0, 0, 0, 1))[:, : group.tokens.shape[1]]
        at = group.is_teacher[..., None]
        chosen = torch.where(at[..., None], teacher, rollouts)[:, :, :width].log_softmax(-1)
        noise = torch.where(at, self.noise[:, -1:], pad(self.noise[:, :-1], (0, 0, 0, 1))[:, : group.tokens.shape[1]])
        logprobs = chosen.gather(3, group.tokens[..., None])[..., 0]
        entropy = -(chosen.exp() * chosen).sum(-1)
        return {"logprobs": logprobs, "entropy": entropy, "noise": noise[:, :, :width]}

    def answers(self, sampled: int, opened: Sequence[bool]) -> Batch:
        """The batch as a formula sees it, with ``sampled`` rollouts a prompt."""
        rollouts = [[self._answer(prompt, row) for row in range(sampled)] for prompt in range(len(opened))]
        usable = self.prompts.teacher_usable.tolist()
        teachers = [self._answer(prompt, None) if usable[prompt] else None for prompt in range(len(opened))]
        return Batch(rollouts, teachers, list(opened))

    def _answer(self, prompt: int, row: int | None) -> Answer:
        tokens = self.prompts.teacher_tokens[prompt] if row is None else self.group.tokens[prompt, row]
        mask = self.prompts.teacher_mask[prompt] if row is None else self.group.mask[prompt, row]
        place = -1 if row is None else row
        length = int(mask.sum())
        chosen = self.logits[prompt, place, :length].log_softmax(-1)
        logprobs = chosen[torch.arange(length), tokens[:length]]
        old = logprobs.detach() + self.noise[prompt, place, :length]
        reward = 1.0 if row is None else float(self.group.rewards[prompt, row])
        entropy = -(chosen.exp() * chosen).sum(-1)
        return Answer(reward, logprobs, old, old - 0.3, entropy, int(self.prompts.mask[prompt].sum()))


def fixed_batch(successes: Sequence[int], size: int, usable: Sequence[int], noise: float) -> Fixed:
    """Groups of ``size`` rows of which the last are right: as many as ``successes`` says."""
    draw = torch.Generator().manual_seed(5)
    prompts = len(successes)
    rewards = torch.tensor([[0.0] * (size - count) + [1.0] * count for count in successes])
    length = torch.randint(2, LONGEST + 1, (prompts, size + 1), generator=draw)
    mask = torch.arange(LONGEST) < length[..., None]
    tokens = torch.randint(0, VOCABULARY, (prompts, size + 1, LONGEST), generator=draw)
    prompt_mask = torch.arange(PROMPT) >= torch.randint(0, PROMPT, (prompts, 1), generator=draw)
    group = RolloutGroup(
        prompt_ids=torch.arange(prompts) + 1,
        prompt_tokens=torch.zeros(prompts, PROMPT, dtype=torch.int64),
        prompt_mask=prompt_mask,
        tokens=tokens[:, :-1],
        mask=mask[:, :-1],
        rewards=rewards,
        finished=torch.ones(prompts, size, dtype=torch.bool),
        is_teacher=torch.zeros(prompts, size, dtype=torch.bool),
        present=torch.ones(prompts, size, dtype=torch.bool),
        behaviour_logprobs=torch.zeros(prompts, size, LONGEST),
    )
    given = PromptBatch(
        prompt_ids=group.prompt_ids,
        tokens=group.prompt_tokens,
        mask=prompt_mask,
        answers=tuple("7" for _ in successes),
        teacher_tokens=tokens[:, -1],
        teacher_mask=mask[:, -1],
        teacher_rewards=torch.tensor(usable).float(),
    )
    shape = (prompts, size + 1, LONGEST)
    logits = torch.randn(*shape, VOCABULARY, generator=draw, dtype=torch.float64).requires_grad_()
    return Fixed(group, given, logits, noise * torch.randn(shape, generator=draw, dtype=torch.float64))


Formula = Callable[[Batch], Tensor]


def agree(
    preset: str,
    formula: Formula,
    *overrides: str,
    successes: Sequence[int] = (0, 1, 2, 3, 0),
    usable: Sequence[int] = (1, 1, 1, 0, 0),
    noise: float = 0.4,
    step: int = 0,
    phase: str = "whole",
) -> Batch:
    """Assert that a preset has the formula's loss and gradient on the fixed batch; the batch, as the formula saw it."""
    config = composed("train", f"experiment={preset}", "paths.run=run", *overrides)
    loss = instantiate(config.phases.sequence[phase].loss, _convert_="all")
    fixed = fixed_batch(successes, config.group_size, usable, noise)
    experience, sampled = _collected(config, fixed, phase, step)
    terms = fixed.terms(experience.group)
    old = (terms["logprobs"] + terms["noise"]).detach().flatten(0, 1)
    reference = old - 0.3 if config.loss.kl_coefficient else None
    rows = experience.rows()._replace(old_logprobs=old, reference_logprobs=reference)
    output = loss(terms["logprobs"].flatten(0, 1), terms["entropy"].flatten(0, 1), rows)
    batch = fixed.answers(sampled, experience.decision.open.tolist())
    expected = formula(batch)
    (gradient,) = torch.autograd.grad(output.loss, fixed.logits)
    (expected_gradient,) = torch.autograd.grad(expected, fixed.logits)
    assert expected_gradient.abs().max() > 0
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-10)
    return batch


def _collected(config, fixed, phase, step):
    """What the preset's algorithm makes of the batch, and how many rollouts it takes of each prompt."""
    if config.phases.sequence[phase].algorithm._target_.endswith("Supervised"):
        weighting = instantiate(config.phases.sequence[phase].algorithm.weighting, _convert_="all")
        prompts = replace(fixed.prompts, teacher_rewards=fixed.prompts.teacher_rewards.double())
        return Supervised(weighting).collect(prompts, step, lambda group: [], ALONE), 0
    names = ("gate", "injector", "advantage", "weighting")
    parts = {name: instantiate(config[name], _convert_="all") for name in names}
    verifier = ScriptedVerifier(fixed.group.rewards.tolist())
    algorithm = Hapo(config.group_size, DoubleEngine(fixed.group), verifier, **parts)
    decode = lambda group: ["" for _ in range(group.rewards.numel())]  # noqa: E731
    experience = algorithm.collect(fixed.prompts, step, decode, ALONE)
    return experience, algorithm.rollouts_per_prompt
