"""Presets with a teacher have the loss and the gradient of their paper's or script's formula."""

from __future__ import annotations

import math

import pytest
import torch
from support.preset_parity import agree

LIMIT = 128
ONE_MICRO_BATCH = (f"max_response_tokens={LIMIT}",)
"""A limit so long that the fixed batch is one micro-batch of one device, as far as the scripts' 32768 tokens go."""


def ratio_of(answer):
    return (answer.logprobs - answer.old).exp()


def clipped(ratio, advantage):
    return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)


def dual_clipped(ratio, advantage):
    """verl and Trinity-RFT: at a negative advantage no more than three times it."""
    value = clipped(ratio, advantage)
    return torch.maximum(value, 3 * advantage) if advantage < 0 else value


def shaped(answer):
    probability = answer.logprobs.exp()
    return probability / (probability + 0.1)


def rewards_of(group):
    return torch.tensor([answer.reward for answer in group], dtype=torch.float64)


def normalised(rewards):
    return (rewards - rewards.mean()) / (rewards.std() + 1e-6)


def substituted(batch):
    """SSI, Eq. 7: in open groups the teacher in place of the first of the worst; rows of (answer, is teacher)."""
    for group, teacher, opened in zip(batch.rollouts, batch.teachers, batch.opened, strict=True):
        rows = [(answer, False) for answer in group]
        if opened and teacher is not None:
            worst = min(range(len(group)), key=lambda place: group[place].reward)
            rows[worst] = (teacher, True)
        yield rows


def entropies(batch_rows):
    return torch.cat([answer.entropy for answer in batch_rows])


# -- HAPO ---------------------------------------------------------------------------------------------------------


def hapo(batch):
    """Algorithm 1 as docs and README describe our default: unit ratio for the teacher, failures beside it spared."""
    terms = []
    for rows in substituted(batch):
        credits = normalised(rewards_of([answer for answer, _ in rows]))
        only_the_teacher = all(is_teacher == (answer.reward == 1) for answer, is_teacher in rows)
        for (answer, is_teacher), credit in zip(rows, credits, strict=True):
            spared = only_the_teacher and not is_teacher and any(taught for _, taught in rows)
            unit = (answer.logprobs - answer.logprobs.detach()).exp()
            credit = 0 * credit if spared else credit
            terms.append(unit * credit if is_teacher else clipped(ratio_of(answer), credit))
    return -torch.cat(terms).mean()


DEFAULT_KIN = [
    "hapo",
    "hapo_annealed",
    "hapo_history",
    "hapo_thompson",
    "smoke",
    "smollm_gsm",
    "finetune",
    "sft_then_hapo",
]


@pytest.mark.parametrize("preset", DEFAULT_KIN)
def test_hapo(preset):
    batch = agree(preset, hapo)
    if preset != "hapo_thompson":
        assert batch.opened == [True, False, False, False, True]  # where no rollout succeeded


def hapo_paper(batch, entropy=0.0):
    """Eqs. 2, 7, 8, 9 with LUFFY's shaping, and the advantage of the augmented group in it."""
    terms, rows_of_batch = [], []
    for rows in substituted(batch):
        credits = normalised(rewards_of([answer for answer, _ in rows]))
        for (answer, is_teacher), credit in zip(rows, credits, strict=True):
            terms.append(shaped(answer) * credit if is_teacher else clipped(ratio_of(answer), credit))
            rows_of_batch.append(answer)
    return -torch.cat(terms).mean() - entropy * entropies(rows_of_batch).mean()


@pytest.mark.parametrize(
    ("preset", "entropy"), [("hapo_paper", 0.0), ("qwen_math_numina", 0.001), ("qwen_math_numina_7b", 0.001)]
)
def test_hapo_as_published(preset, entropy):
    batch = agree(preset, lambda batch: hapo_paper(batch, entropy), successes=(0, 1, 6, 7, 8), usable=(1, 1, 1, 1, 0))
    assert batch.opened == [True, True, True, False, False]  # at most six successes of eight


# -- the sums of LUFFY's and HPT's scripts ------------------------------------------------------------------------


def centred_with_teacher(batch):
    """LUFFY's group: the rollouts and the trace, r - mean over all of them."""
    for group, teacher in zip(batch.rollouts, batch.teachers, strict=True):
        rows = [(answer, False) for answer in group] + ([(teacher, True)] if teacher else [])
        rewards = rewards_of([answer for answer, _ in rows])
        yield from zip(rows, rewards - rewards.mean(), strict=True)


def luffy(batch):
    """mix_core_alg.py and mix_actor.py with the script's settings: sum / max length, entropy a token mean."""
    total, rows = 0.0, []
    for (answer, is_teacher), credit in centred_with_teacher(batch):
        total = total - (credit * (shaped(answer) if is_teacher else ratio_of(answer))).sum() / LIMIT
        rows.append(answer)
    return total - 0.001 * entropies(rows).mean()


def rl_plus(batch):
    """rlplus_core_alg.py: ratio 2p / (p_old + (p_old + 1) / 2), advantage times (1 - p)^0.5 without a gradient."""
    total, rows = 0.0, []
    for (answer, is_teacher), credit in centred_with_teacher(batch):
        probability, old = answer.logprobs.exp(), answer.old.exp()
        off = 2 * probability / (old + 0.5 * (old + 1)) * (1 - probability.detach()) ** 0.5
        total = total - (credit * (off if is_teacher else ratio_of(answer))).sum() / LIMIT
        rows.append(answer)
    return total - 0.001 * entropies(rows).mean()


@pytest.mark.parametrize(("preset", "formula"), [("luffy", luffy), ("rl_plus", rl_plus)])
def test_luffy_and_rl_plus(preset, formula):
    agree(preset, formula, *ONE_MICRO_BATCH, "weighting.rows=38")  # 5 x 7 rollouts, 3 teachers


def mixed_with_nll(batch, replaces):
    """HPT (``replaces``): a failed group becomes its teacher.  ReLIFT: the teacher comes beside it."""
    total, teachers, rows = 0.0, [], []
    for group, teacher in zip(batch.rollouts, batch.teachers, strict=True):
        rewards = rewards_of(group)
        taught = teacher is not None and rewards.sum() == 0
        if taught:
            teachers.append(teacher)
        if taught and replaces:
            continue
        for answer, credit in zip(group, rewards - rewards.mean(), strict=True):
            total = total - (credit * ratio_of(answer)).sum() / LIMIT
            rows.append(answer)
    nll = -torch.cat([answer.logprobs for answer in teachers]).mean()
    return total + nll - 0.001 * entropies(rows + teachers).mean()


def test_hpt():
    """mix_actor.py, offline loss ``sft``, with the script's settings."""
    agree("hpt", lambda batch: mixed_with_nll(batch, True), *ONE_MICRO_BATCH, "weighting.rows=33")


def test_relift():
    """Its RL step and its SFT step, as one: each as its first script has it, with HPT's weight between them."""
    agree("relift", lambda batch: mixed_with_nll(batch, False), *ONE_MICRO_BATCH, "weighting.rows=41")


# -- CHORD, SFT ---------------------------------------------------------------------------------------------------


def chord(batch, share, weight):
    """Trinity-RFT's chord_policy_loss.py: (1 - mu) GRPO over rollouts + mu SFT over experts, each a token mean."""
    policy = [
        dual_clipped(ratio_of(answer), credit)
        for group in batch.rollouts
        for answer, credit in zip(group, normalised(rewards_of(group)), strict=True)
    ]
    expert = [weight(answer.logprobs.detach().exp()) * answer.logprobs for answer in batch.teachers if answer]
    return -(1 - share) * torch.cat(policy).mean() - share * torch.cat(expert).mean()


@pytest.mark.parametrize("step", [0, 100, 200])
def test_chord(step):
    share = 0.05 + 0.5 * (0.9 - 0.05) * (1 + math.cos(math.pi * step / 200))
    agree("chord", lambda batch: chord(batch, share, lambda p: 1.0), step=step, noise=1.0)


def test_chord_phi():
    agree("chord_phi", lambda batch: chord(batch, 0.1, lambda p: p * (1 - p)), noise=1.0)


@pytest.mark.parametrize(
    ("preset", "phase"), [("sft", "whole"), ("sft_then_grpo", "warmup"), ("sft_then_hapo", "warmup")]
)
def test_sft(preset, phase):
    def formula(batch):
        return -torch.cat([answer.logprobs for answer in batch.teachers if answer]).mean()

    agree(preset, formula, phase=phase)
