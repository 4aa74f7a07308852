"""Presets without a teacher have the loss and the gradient of their paper's or script's formula."""

from __future__ import annotations

import pytest
import torch
from support.preset_parity import agree


def ratio_of(answer):
    return (answer.logprobs - answer.old).exp()


def clipped(ratio, advantage, low=0.2, high=0.2):
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def rewards_of(group):
    return torch.tensor([answer.reward for answer in group], dtype=torch.float64)


def normalised(rewards):
    """DeepSeekMath, §4.1.2, with the sample deviation and the 1e-6 of verl."""
    return (rewards - rewards.mean()) / (rewards.std() + 1e-6)


def grpo(batch):
    """verl's GRPO: token mean of the batch."""
    terms = [
        clipped(ratio_of(answer), credit)
        for group in batch.rollouts
        for answer, credit in zip(group, normalised(rewards_of(group)), strict=True)
    ]
    return -torch.cat(terms).mean()


@pytest.mark.parametrize(("preset", "phase"), [("grpo", "whole"), ("sft_then_grpo", "whole")])
def test_grpo(preset, phase):
    agree(preset, grpo, phase=phase)


def test_dr_grpo():
    """understand-r1-zero: ``masked_sum(loss, constant_normalizer=generate_max_length)``, mean over rows."""

    def formula(batch):
        rows = []
        for group in batch.rollouts:
            rewards = rewards_of(group)
            rows += [
                clipped(ratio_of(answer), credit).sum() / 6
                for answer, credit in zip(group, rewards - rewards.mean(), strict=True)
            ]
        return -torch.stack(rows).mean()

    agree("dr_grpo", formula, "max_response_tokens=6")


def test_dapo():
    """Eqs. 8, 12, 13 of the paper, with its rewards of +1 and -1: groups of one accuracy are not in the batch."""

    def formula(batch):
        terms = []
        for group in batch.rollouts:
            right = 2 * rewards_of(group) - 1
            if right.unique().numel() == 1:
                continue
            length = torch.tensor([len(answer.logprobs) for answer in group])
            limit, buffer = 6, 6 / 5
            penalty = ((limit - buffer - length) / buffer).clamp(-1, 0)
            for answer, credit in zip(group, normalised(right + penalty), strict=True):
                terms.append(clipped(ratio_of(answer), credit, 0.2, 0.28))
        return -torch.cat(terms).mean()

    agree("dapo", formula, "max_response_tokens=6", "+advantage.estimator.eps=5e-7", successes=(0, 3, 7, 16, 1))


def test_gspo():
    """Eqs. 5 and 7 of the paper: the sequence's ratio is the geometric mean of its tokens'."""

    def formula(batch):
        rows = []
        for group in batch.rollouts:
            for answer, credit in zip(group, normalised(rewards_of(group)), strict=True):
                ratio = (answer.logprobs - answer.old).mean().exp()
                rows.append(clipped(ratio, credit, 3e-4, 4e-4))
        return -torch.stack(rows).mean()

    agree("gspo", formula, noise=6e-4)


def test_rloo():
    """The paper's baseline, the mean of the other samples; TRL's ratio of whole sequences, with its clip."""

    def formula(batch):
        rows = []
        for group in batch.rollouts:
            rewards = rewards_of(group)
            for place, answer in enumerate(group):
                others = torch.cat([rewards[:place], rewards[place + 1 :]])
                ratio = (answer.logprobs - answer.old).sum().exp()
                rows.append(clipped(ratio, rewards[place] - others.mean()))
        return -torch.stack(rows).mean()

    agree("rloo", formula, noise=0.08)


def test_reinforce_pp():
    """OpenRLHF's reinforce_baseline: group mean off, whitened over the batch's tokens; k2 loss; token means."""

    def formula(batch):
        pairs = []
        for group in batch.rollouts:
            rewards = rewards_of(group)
            pairs += zip(group, rewards - rewards.mean(), strict=True)
        credit = torch.cat([value.expand(len(answer.logprobs)) for answer, value in pairs])
        white = (credit - credit.mean()) * (credit.var(unbiased=False) + 1e-8).rsqrt()
        ratio = torch.cat([ratio_of(answer) for answer, _ in pairs])
        gap = torch.cat([answer.logprobs - answer.reference for answer, _ in pairs])
        return -clipped(ratio, white).mean() + 1e-5 * (0.5 * gap.square()).mean()

    agree("reinforce_pp", formula)
