"""Methods that should be the same are the same, from their shipped configurations to the weights, bit for bit."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from support.configs import composed
from support.training import weights

from hapo_lit import analysis
from hapo_lit.cli.setup import build


class LikesOdd:
    """Accepts about every second answer of a random policy, and every answer of a teacher."""

    def __call__(self, responses, answers):
        return torch.tensor([float(sum(map(ord, answer)) % 2 or "boxed{" in answer) for answer in responses])

    def metrics(self):
        return {}


SAME = ("learning_rate.start=1e-2", "learning_rate.end=1e-3")


@pytest.fixture
def trained(base, tmp_path):
    """Runs a configuration for a few steps on a random policy, whose answers the verifier accepts about half of."""

    def run(*overrides):
        folder = tmp_path / str(len(run.folders))
        run.folders.append(folder)
        config = composed(
            "train",
            f"model.path={base}",
            f"paths.run={folder}",
            "verifier._target_=test_reductions.LikesOdd",
            "steps=4",
            "prompts_per_step=4",
            "teacher_errors=none",
            "data.source.train_size=12",
            "data.source.heldout_size=2",
            "data.source.levels.0.digits=1",
            "data.source.levels.1.digits=2",
            "max_response_tokens=24",
            *overrides,
        )
        datamodule, module, trainer = build(config, "data", "module", "trainer")
        before = weights(module).clone()
        trainer.fit(module, datamodule=datamodule)
        assert not torch.equal(weights(module), before)
        return weights(module), analysis.read_metrics(folder)

    run.folders = []
    return run


def test_hapo_whose_gate_never_opens_is_grpo(trained):
    hapo, steps = trained("experiment=hapo", "gate=never", *SAME)
    grpo, _ = trained("experiment=grpo", *SAME)
    assert (steps["teacher/use"].dropna() == 0).all()
    assert torch.equal(hapo, grpo)
    helped, steps = trained("experiment=hapo", "gate.threshold=0.6", *SAME)
    assert steps["teacher/use"].sum() > 0
    groups = pd.read_csv(trained.folders[-1] / "groups.csv").groupby("step").mean()
    assert groups["teacher"].tolist() == steps["teacher/use"].dropna().tolist()
    assert groups["open"].tolist() == steps["gate/open_rate"].dropna().tolist()
    assert (groups["successes"] / 4).tolist() == pytest.approx(steps["reward/mean"].dropna().tolist())
    assert not torch.equal(helped, grpo)  # the comparison can fail


def test_dapo_with_equal_clips_and_nothing_dropped_is_token_mean_grpo(trained):
    sizes = ("group_size=16", "module.minibatches=2", *SAME)
    dapo, steps = trained(
        "experiment=dapo", "loss.clip.high=0.2", "advantage.max_length=1000", "module.updates_per_batch=3", *sizes
    )
    assert (steps["signal/flat"].dropna() == 0).all()
    grpo, _ = trained("experiment=grpo", "module.updates_per_batch=3", *sizes)
    assert torch.equal(dapo, grpo)
    higher, steps = trained("experiment=dapo", "advantage.max_length=1000", "module.updates_per_batch=3", *sizes)
    assert steps["loss/clipped_share"].sum() > 0
    assert not torch.equal(higher, grpo)


def test_luffy_without_a_teacher_is_its_base_with_one_rollout_less(trained):
    no_teacher = ("teacher_errors=sparse", "teacher_errors.share=0.0", *SAME)
    luffy, steps = trained("experiment=luffy", "group_size=8", *no_teacher)
    assert (steps["teacher/use"].dropna() == 0).all()
    assert (steps["teacher/refused"].dropna() == 4).all()
    parts = ("advantage=centred", "weighting=device_sums", "loss=unclipped", "loss.entropy_coefficient=0.001")
    plain, _ = trained("experiment=grpo", "group_size=7", "module.minibatches=2", *parts, *no_teacher)
    assert torch.equal(luffy, plain)


def test_relift_whose_gate_never_opens_is_its_base(trained):
    relift, _ = trained("experiment=relift", "group_size=8", "gate=never", *SAME)
    parts = ("advantage=centred", "weighting=device_sums", "loss=unclipped", "loss.entropy_coefficient=0.001")
    plain, _ = trained("experiment=grpo", "group_size=8", "module.minibatches=2", *parts, *SAME)
    assert torch.equal(relift, plain)


def test_measuring_consistency_changes_nothing(trained):
    parts = ("experiment=hapo", "gate.threshold=0.6", "module.updates_per_batch=2", *SAME)
    plain, _ = trained(*parts)
    measured, steps = trained(*parts, "consistency_every=2")
    assert torch.equal(plain, measured)
    found = steps.filter(like="consistency/").dropna()
    assert found.index.tolist() == [1, 3]
    assert pd.read_csv(trained.folders[-1] / "metrics.csv")["consistency/norm"].count() == 2  # once, not per update
    _, once = trained("experiment=hapo", "gate.threshold=0.6", "consistency_every=2", *SAME)
    assert steps["consistency/norm"][1] == once["consistency/norm"][1]  # before the first update, not after it
    assert once["consistency/norm"][3] == pytest.approx(once["update/gradient_norm"][3], rel=1e-5)
    taught = steps["teacher/use"] > 0
    assert ((found["consistency/cosine"] < 0.999) == taught[found.index]).all()


def test_without_injection_the_gradients_are_one_and_the_same(trained):
    _, steps = trained("experiment=hapo", "gate=never", "consistency_every=1", *SAME)
    assert steps["consistency/norm_ratio"].dropna().tolist() == [1.0] * 4
    assert steps["consistency/cosine"].dropna().tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("preset", ["rloo", "gspo"])
def test_with_one_update_a_ratio_is_one_and_its_shape_does_not_matter(trained, preset):
    # RLOO's product carries Σ ∇log π where GSPO's mean carries it over the length: only the latter is token GRPO
    once = ("module.minibatches=1", "group_size=8", *SAME)
    sequence, _ = trained(f"experiment={preset}", *once)
    token = "loss.ratio.path=hapo_lit.losses.token_ratio"
    weighting = "weighting=token_mean" if preset == "rloo" else "weighting=sequence_mean"
    clip = ("loss.clip.low=0.2", "loss.clip.high=0.2")
    other, _ = trained(f"experiment={preset}", token, weighting, *clip, *once)
    if preset == "gspo":
        torch.testing.assert_close(sequence, other, atol=1e-4, rtol=1e-3)
    else:
        assert not torch.allclose(sequence, other, atol=1e-4, rtol=1e-3)
