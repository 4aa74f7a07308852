"""What each preset builds: the method that it is named after, with the values of its paper."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from support.configs import CONF, PRESETS, SHIPPED, composed, targets, wrong_names

from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.cli.setup import build
from hapo_lit.gates import BetaGate, NeverGate


def settings_of(preset, base, folder):
    small = ["data.source.train_size=40", "data.source.heldout_size=4"] if preset in PRESETS else []
    return f"experiment={preset}", f"model.path={base}", f"paths.run={folder}", *small


@pytest.fixture(scope="module")
def configuration(base, tmp_path_factory):
    """The configuration of a preset in ``hapo train``, composed once for the tests that look at it."""
    folder = tmp_path_factory.mktemp("run")
    return cache(lambda preset: composed("train", *settings_of(preset, base, folder)))


@pytest.fixture(scope="module")
def built(configuration):
    """The data, the module and the trainer of a preset."""
    return cache(lambda preset: build(copy.deepcopy(configuration(preset)), "data", "module", "trainer"))


@pytest.fixture(scope="module")
def parts(built):
    """The algorithms and losses of a preset's phases, and its module."""

    def of(preset):
        module = built(preset)[1]
        return [phase.algorithm for phase in module.phases], [phase.loss for phase in module.phases], module

    return of


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(configuration, built, preset):
    assert len(list(targets(configuration(preset)))) > 10
    assert wrong_names(configuration(preset)) == []
    data, module, trainer = built(preset)
    assert data.training_set.size == 40
    assert trainer.limit_train_batches == module.phases.steps


@pytest.mark.parametrize("preset", SHIPPED)
def test_train_and_fabric_build_the_same_run(configuration, preset):
    """Their configurations differ in a group of their own alone, and so does what is built from them."""
    config = configuration(preset)
    fabric_config = composed("fabric", *settings_of(preset, config.model.path, config.paths.run))
    trained, spread = (OmegaConf.to_container(composition, resolve=False) for composition in (config, fabric_config))
    assert trained.pop("trainer")
    assert spread.pop("fabric")
    assert trained == spread


METHODS = {  # preset -> group size, gate, injector, advantage, teacher, weighting, clip; then single values
    "smoke": (4, "BetaGate", "ReplaceWorst", "SpareFailures", "UnitRatio", "TokenMean", "Clipped"),
    "hapo": (4, "BetaGate", "ReplaceWorst", "SpareFailures", "UnitRatio", "TokenMean", "Clipped"),
    "hapo_paper": (8, "BetaGate", "ReplaceWorst", "GroupNormalised", "ShapedRatio", "TokenMean", "Clipped"),
    "hapo_annealed": (4, "BetaGate", "ReplaceWorst", "SpareFailures", "UnitRatio", "TokenMean", "Clipped"),
    "hapo_thompson": (4, "BetaGate", "ReplaceWorst", "SpareFailures", "UnitRatio", "TokenMean", "Clipped"),
    "hapo_history": (4, "BetaGate", "ReplaceWorst", "SpareFailures", "UnitRatio", "TokenMean", "Clipped"),
    "grpo": (4, "NeverGate", "NoInjection", "GroupNormalised", "UnitRatio", "TokenMean", "Clipped"),
    "dr_grpo": (8, "NeverGate", "NoInjection", "GroupCentred", "UnitRatio", "ConstantLength", "Clipped"),
    "dapo": (16, "NeverGate", "NoInjection", "SoftOverlong", "UnitRatio", "DropFlat", "Clipped"),
    "gspo": (8, "NeverGate", "NoInjection", "GroupNormalised", "UnitRatio", "SequenceMean", "Clipped"),
    "rloo": (4, "NeverGate", "NoInjection", "LeaveOneOut", "UnitRatio", "SequenceMean", "Clipped"),
    "reinforce_pp": (8, "NeverGate", "NoInjection", "BatchWhitened", "UnitRatio", "TokenMean", "Clipped"),
    "luffy": (8, "AlwaysGate", "ReplaceSlot", "GroupCentred", "ShapedRatio", "DeviceSums", "Unclipped"),
    "rl_plus": (8, "AlwaysGate", "ReplaceSlot", "GroupCentred", "MixedPolicyRatio", "DeviceSums", "Unclipped"),
    "hpt": (
        8,
        "FailureGate",
        "ReplaceGroup",
        "GroupCentred",
        "NegativeLogLikelihood",
        "DeviceSumsAndMeans",
        "Unclipped",
    ),
    "relift": (8, "FailureGate", "Append", "GroupCentred", "NegativeLogLikelihood", "DeviceSumsAndMeans", "Unclipped"),
    "chord": (8, "AlwaysGate", "Append", "GroupNormalised", "NegativeLogLikelihood", "SeparateMeans", "DualClipped"),
    "chord_phi": (8, "AlwaysGate", "Append", "GroupNormalised", "Phi", "SeparateMeans", "DualClipped"),
}


@pytest.mark.parametrize("preset", METHODS)
def test_presets_are_the_methods_they_name(parts, preset):
    (algorithm,), (loss,), _ = parts(preset)
    found = (algorithm.gate, algorithm.injector, algorithm.advantage, loss.teacher, algorithm.weighting, loss.clip)
    assert (algorithm.group_size, *(type(part).__name__ for part in found)) == METHODS[preset]


def test_every_preset_is_either_a_method_of_one_phase_or_begins_supervised(parts):
    assert set(PRESETS) - set(METHODS) == {"sft", "sft_then_grpo", "sft_then_hapo"}
    assert type(parts("sft")[0][0]) is Supervised
    for preset, gate in (("sft_then_grpo", NeverGate), ("sft_then_hapo", BetaGate)):
        (first, second), _, _ = parts(preset)
        assert (type(first), type(second), type(second.gate)) == (Supervised, Hapo, gate)


@pytest.mark.parametrize(
    ("preset", "look", "value"),
    [
        ("hapo", lambda a, loss, m: (a.gate.threshold, a.gate.memory.discount), (0.2, 0.0)),
        ("hapo_paper", lambda a, loss, m: (a.gate.threshold, a.gate.prior_alpha, a.gate.prior_beta), (0.8, 1, 1)),
        ("hapo_paper", lambda a, loss, m: (loss.teacher.shape, loss.kl_coefficient), (0.1, 0)),
        ("hapo_thompson", lambda a, loss, m: type(a.gate.rule).__name__, "ThompsonSample"),
        ("hapo_history", lambda a, loss, m: a.gate.memory.discount, 1.0),
        ("dr_grpo", lambda a, loss, m: a.weighting.max_length, 72),
        ("dapo", lambda a, loss, m: (loss.clip.low, loss.clip.high), (0.2, 0.28)),
        ("dapo", lambda a, loss, m: (a.advantage.max_length, a.advantage.buffer, a.advantage.penalty), (72, 14.4, 0.5)),
        ("gspo", lambda a, loss, m: (loss.clip.low, loss.clip.high, m.minibatches), (3e-4, 4e-4, 4)),
        ("gspo", lambda a, loss, m: loss.ratio.__name__, "sequence_ratio"),
        ("rloo", lambda a, loss, m: loss.ratio.__name__, "sequence_product"),
        ("reinforce_pp", lambda a, loss, m: (loss.kl.__name__, loss.kl_coefficient), ("k2", 1e-5)),
        ("luffy", lambda a, loss, m: (loss.teacher.shape, loss.entropy_coefficient), (0.1, 0.001)),
        ("rl_plus", lambda a, loss, m: (loss.teacher.exploration, loss.entropy_coefficient), (0.5, 0.001)),
        ("hpt", lambda a, loss, m: (a.gate.max_successes, loss.teacher.coefficient(0)), (0, 1.0)),
        (
            "hpt",
            lambda a, loss, m: (a.weighting.max_length, a.weighting.rows, a.weighting.micro_batch_lengths),
            (72, 64, 4),
        ),
        ("hpt", lambda a, loss, m: (m.minibatches, loss.entropy_coefficient), (2, 0.001)),
        ("luffy", lambda a, loss, m: m.minibatches, 2),
        ("rl_plus", lambda a, loss, m: m.minibatches, 2),
        ("dr_grpo", lambda a, loss, m: m.minibatches, 8),
        ("reinforce_pp", lambda a, loss, m: m.minibatches, 8),
        ("dapo", lambda a, loss, m: (m.minibatches, m.updates_per_batch), (16, 1)),
        ("relift", lambda a, loss, m: a.advantage.over.__name__, "on_policy"),
        (
            "chord",
            lambda a, loss, m: [round(a.weighting.teacher_share(t), 6) for t in (0, 200, 600)],
            [0.9, 0.05, 0.05],
        ),
        ("chord", lambda a, loss, m: [round(a.weighting.policy_share(t), 6) for t in (0, 200, 600)], [0.1, 0.95, 0.95]),
        ("chord_phi", lambda a, loss, m: {a.weighting.teacher_share(t) for t in (0, 100, 600)}, {0.1}),
    ],
)
def test_presets_hold_the_papers_values(parts, preset, look, value):
    (algorithm,), (loss,), module = parts(preset)
    assert look(algorithm, loss, module) == value


def test_the_annealed_preset_ends_with_exactly_no_injection(parts):
    """A policy that never succeeds is helped until the threshold meets the cut-off, 1/6, and never again."""
    (algorithm,), _, module = parts("hapo_annealed")
    gate, one = algorithm.gate, torch.tensor([1])
    opens = []
    for _ in range(module.phases.steps):
        gate.observe(one, one * 0, one * 4)
        opens.append(bool(gate(one, torch.zeros(1, 4)).open))
    cut = next(step for step in range(600) if 0.3 * (1 - step / 600) <= 1 / 6)
    assert opens == [step < cut for step in range(600)]
    assert 200 < cut < 300


def test_a_preset_is_a_few_lines_with_its_source():
    for preset in SHIPPED:
        lines = (CONF / "experiment" / f"{preset}.yaml").read_text().splitlines()
        assert len(lines) <= 24, preset
        assert lines[1].startswith("# "), preset
