"""The loss and its gradient against TRL's, on the same weights and the same batch, off-policy enough for clips to act.

TRL is no dependency: `pip install 'hapo_lit[bench]'` brings it.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from support.builders import make_group

from hapo_lit.advantages import GroupCentred, GroupNormalised
from hapo_lit.losses import (
    Cispo,
    Clipped,
    DualClipped,
    Masked,
    Surrogate,
    Truncated,
    k3,
    k3_reweighted,
    sequence_product,
    sequence_ratio,
)
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.protocols import ALONE
from hapo_lit.teacher import UnitRatio
from hapo_lit.types import Experience, GateDecision
from hapo_lit.weighting import ConstantLength, DropTruncated, SequenceMean, TokenMean

pytestmark = pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: pip install 'hapo_lit[bench]'")

LIMIT = 12
PROMPTS, GROUP = 4, 6


@pytest.fixture(scope="module", autouse=True)
def without_vllm():
    """TRL's trainer would import vLLM, which takes longer than all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("trl.import_utils"), "is_vllm_available", lambda *_, **__: False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    from support.builders import TINY

    from hapo_lit.policy.loading import new_policy

    path = tmp_path_factory.mktemp("policy")
    new_policy("qwen2", {**TINY, "tie_word_embeddings": True}, tokenizer, 0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def trainer_of(folder, tokenizer, **settings):
    import trl
    from datasets import Dataset

    arguments = trl.GRPOConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        per_device_train_batch_size=PROMPTS * GROUP,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_generations=GROUP,
        max_completion_length=LIMIT,
        temperature=1.0,
        **settings,
    )
    trainer = trl.GRPOTrainer(
        model=str(folder),
        reward_funcs=lambda **_: [0.0],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * (PROMPTS * GROUP)),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.double().train()
    return trainer


def rows_of(policy, advantage, weighting, seed=3):
    """Rows of a batch whose old, reference and engine log-probabilities stray from the policy's by about 0.3 nats."""
    group = make_group(
        [[1, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0], [0] * 6, [0, 0, 1, 0, 1, 0]],
        lengths=[[1, 5, 9, 12, 12, 3], [2, 2, 7, 1, 4, 12], [6, 5, 4, 3, 2, 1], [8, 1, 12, 2, 9, 9]],
    )
    group = replace(group, rewards=group.rewards.double(), behaviour_logprobs=None)
    group = replace(group, finished=group.mask.sum(2) < LIMIT)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        own = token_logprobs(policy, group.text())[0].reshape(group.tokens.shape)

    def strayed():
        noise = 0.3 * torch.randn(own.shape, generator=draw, dtype=torch.float64)
        return torch.where(group.mask, own + noise, 0.0)

    old, reference, behaviour = strayed(), strayed(), strayed()
    experience = Experience(
        group=group,
        advantages=advantage(group, ALONE.mean),
        token_weights=weighting(group, ALONE.mean, 0),
        decision=GateDecision(torch.zeros(PROMPTS, dtype=torch.bool), torch.ones(PROMPTS)),
        behaviour_logprobs=behaviour,
    )
    return experience.rows()._replace(old_logprobs=old.flatten(0, 1), reference_logprobs=reference.flatten(0, 1))


def gradient_of(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def ours(policy, rows, loss):
    value = loss(*token_logprobs(policy, rows.text, entropy_gradient=loss.needs_entropy), rows).loss
    return float(value.detach()), gradient_of(policy, value)


def theirs(trainer, rows, mask=None, correction=None):
    mask = rows.text.mask if mask is None else mask
    inputs = {
        "prompt_ids": rows.text.prompt_tokens,
        "prompt_mask": rows.text.prompt_mask.long(),
        "completion_ids": rows.text.tokens,
        "completion_mask": mask.long(),
        "advantages": rows.advantages,
        "old_per_token_logps": rows.old_logprobs,
        "ref_per_token_logps": rows.reference_logprobs,
        "num_items_in_batch": mask.sum().double(),
    }
    if correction is not None:
        trainer.use_vllm = True
        inputs["importance_sampling_ratio"] = correction
    value = trainer._compute_loss(trainer.model, inputs)
    return float(value.detach()), gradient_of(trainer.model, value)


def assert_equal(found, expected):
    """Of two losses, each with its gradient."""
    assert abs(found[0]) > 1e-3
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert float((found[1] - expected[1]).norm() / expected[1].norm()) < 1e-5


WEIGHTINGS = {
    "grpo": SequenceMean(),
    "dr_grpo": ConstantLength(LIMIT),
    "bnpo": TokenMean(),
    "dapo": TokenMean(),
}


@pytest.mark.parametrize(("beta", "kl"), [(0.0, k3), (0.04, k3), (0.04, k3_reweighted)])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_loss_and_gradient_equal_trls(folder, tokenizer, name, beta, kl):
    high = 0.28 if name == "dapo" else 0.2
    settings = {"loss_type": name, "beta": beta, "use_bias_correction_kl": kl is k3_reweighted}
    trainer = trainer_of(folder, tokenizer, epsilon=0.2, epsilon_high=high, **settings)
    advantage = GroupCentred() if name == "dr_grpo" else GroupNormalised(eps=1e-4)
    rows = rows_of(trainer.model, advantage, WEIGHTINGS[name])
    loss = Surrogate(UnitRatio(), clip=Clipped(0.2, high), kl_coefficient=beta, kl=kl)
    if not beta:
        rows = rows._replace(reference_logprobs=None)
    output = loss(*token_logprobs(trainer.model, rows.text), rows)
    clipped, tokens = output.metrics["loss/clipped_share"].tolist()
    assert 0.05 < clipped / tokens < 0.6
    assert_equal(ours(trainer.model, rows, loss), theirs(trainer, rows))


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"loss_type": "cispo", "epsilon_high": 1.1}, Surrogate(UnitRatio(), clip=Cispo(low=1.0, high=0.1))),
        ({"loss_type": "dapo", "delta": 1.3}, Surrogate(UnitRatio(), clip=DualClipped(floor=1.3))),
        ({"loss_type": "bnpo", "entropy_coef": 0.01}, Surrogate(UnitRatio(), entropy_coefficient=0.01)),
    ],
    ids=["cispo", "dual_clip", "entropy"],
)
def test_so_do_its_other_losses(folder, tokenizer, settings, loss):
    trainer = trainer_of(folder, tokenizer, beta=0.0, **settings)
    rows = rows_of(trainer.model, GroupNormalised(eps=1e-4), TokenMean())
    rows = rows._replace(reference_logprobs=None)
    assert_equal(ours(trainer.model, rows, loss), theirs(trainer, rows))


def test_so_does_gspo(folder, tokenizer):
    trainer = trainer_of(
        folder,
        tokenizer,
        loss_type="grpo",
        beta=0.0,
        importance_sampling_level="sequence",
        epsilon=0.03,
        epsilon_high=0.04,
    )
    rows = rows_of(trainer.model, GroupNormalised(eps=1e-4), SequenceMean())
    rows = rows._replace(reference_logprobs=None)
    loss = Surrogate(UnitRatio(), ratio=sequence_ratio, clip=Clipped(0.03, 0.04))
    assert_equal(ours(trainer.model, rows, loss), theirs(trainer, rows))


def test_so_does_the_mask_on_truncated_responses(folder, tokenizer):
    trainer = trainer_of(folder, tokenizer, loss_type="grpo", beta=0.0)
    rows = rows_of(trainer.model, GroupNormalised(eps=1e-4), DropTruncated(SequenceMean()))
    rows = rows._replace(reference_logprobs=None)
    finished = rows.text.mask.sum(1) < LIMIT
    kept = rows.text.mask & finished[:, None]
    assert 0 < int((~finished).sum()) < PROMPTS * GROUP
    # TRL's model does not see what it masks, ours does; responses are what differs, and they have no weight
    assert_equal(ours(trainer.model, rows, Surrogate(UnitRatio())), theirs(trainer, rows, mask=kept))


@pytest.mark.parametrize(
    ("correction", "bounded"),
    [
        (Truncated(1.2), lambda token, sequence: token.clamp(max=1.2)),
        (Truncated(1.2, sequence_product), lambda token, sequence: sequence.clamp(max=1.2)),
        (Masked(0.0, 1.2), lambda token, sequence: torch.where(token > 1.2, 0.0, token)),
        (Masked(0.0, 1.2, sequence_product), lambda token, sequence: torch.where(sequence > 1.2, 0.0, sequence)),
    ],
    ids=["token_truncate", "sequence_truncate", "token_mask", "sequence_mask"],
)
def test_so_do_corrections_for_the_engine(folder, tokenizer, correction, bounded):
    trainer = trainer_of(folder, tokenizer, loss_type="dapo", beta=0.0)
    rows = rows_of(trainer.model, GroupNormalised(eps=1e-4), TokenMean())
    rows = rows._replace(reference_logprobs=None)
    gap = torch.where(rows.text.mask, rows.old_logprobs - rows.behaviour_logprobs, 0.0)
    factor = bounded(gap.exp(), gap.sum(1, keepdim=True).exp())
    loss = Surrogate(UnitRatio(), correction=correction)
    assert_equal(ours(trainer.model, rows, loss), theirs(trainer, rows, correction=factor))
