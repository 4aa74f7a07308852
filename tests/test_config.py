"""Every shipped configuration composes, builds, and names only parameters that exist."""

from __future__ import annotations

import inspect
import json

import pandas as pd
import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from support.configs import CONF, PRESETS, SHIPPED, composed, rows_of, train

from hapo_lit import cli
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.cli.setup import build, known_keys
from hapo_lit.gates import BetaGate, NeverGate

BUNDLES = ("experiment", "sweep", "hydra")  # settings of other groups, not parts
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in BUNDLES)
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def targets(node, where=""):
    """Every node that names a class or function, with its place."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield where, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from targets(node[key], f"{where}.{key}")
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from targets(item, f"{where}[{index}]")


def check_names(config):
    found = 0
    for where, node in targets(config):
        parameters = inspect.signature(get_object(node._target_)).parameters
        if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        unknown = set(node) - {"_target_", "_partial_"} - set(parameters)
        assert not unknown, f"{where}: {node._target_} has no parameter {unknown}"
        found += 1
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_builds(base, tmp_path, preset):
    config = train(base, tmp_path, f"experiment={preset}", "data.source.train_size=40", "data.source.heldout_size=4")
    assert check_names(config) > 10
    data, module, trainer = build(config, "data", "module", "trainer")
    assert data.training_set.size == 40
    assert trainer.limit_train_batches == config.steps == module.phases.steps


@pytest.mark.parametrize("preset", SHIPPED)
def test_both_doors_build_the_same_run(base, tmp_path, preset):
    """But for the door's own group the configurations are one, so that what is built from them is."""
    doors = [composed(door, f"experiment={preset}", f"paths.run={tmp_path}") for door in ("train", "fabric")]
    train_door, fabric_door = (OmegaConf.to_container(config, resolve=False) for config in doors)
    assert train_door.pop("trainer")
    assert fabric_door.pop("fabric")
    assert train_door == fabric_door


def test_the_fabric_door_builds(base, tmp_path):
    config = composed("fabric", f"model.path={base}", f"paths.run={tmp_path}", "data.source.train_size=40")
    fabric, _, module, loggers, callbacks = build(config, "fabric", "data", "module", "logger", "callbacks")
    assert (fabric.world_size, len(loggers), module.phases.steps) == (1, 2, config.steps)
    assert [type(each).__name__ for each in callbacks][-2:] == ["Checkpointer", "ProgressBar"]


def parts_of(base, folder, *overrides):
    _, module, _ = build(train(base, folder, *overrides), "data", "module", "trainer")
    return [phase.algorithm for phase in module.phases], [phase.loss for phase in module.phases], module


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
    "luffy": (8, "AlwaysGate", "ReplaceSlot", "GroupCentred", "ShapedRatio", "ConstantLength", "Unclipped"),
    "rl_plus": (8, "AlwaysGate", "ReplaceSlot", "GroupCentred", "MixedPolicyRatio", "ConstantLength", "Unclipped"),
    "hpt": (8, "FailureGate", "ReplaceGroup", "GroupCentred", "NegativeLogLikelihood", "SeparateMeans", "Unclipped"),
    "relift": (8, "FailureGate", "Append", "GroupCentred", "NegativeLogLikelihood", "SeparateMeans", "Unclipped"),
    "chord": (8, "AlwaysGate", "Append", "GroupNormalised", "NegativeLogLikelihood", "SeparateMeans", "DualClipped"),
    "chord_phi": (8, "AlwaysGate", "Append", "GroupNormalised", "Phi", "SeparateMeans", "DualClipped"),
}


@pytest.mark.parametrize("preset", METHODS)
def test_presets_are_the_methods_they_name(base, tmp_path, preset):
    (algorithm,), (loss,), _ = parts_of(base, tmp_path, f"experiment={preset}")
    parts = (algorithm.gate, algorithm.injector, algorithm.advantage, loss.teacher, algorithm.weighting, loss.clip)
    assert (algorithm.group_size, *(type(part).__name__ for part in parts)) == METHODS[preset]


def test_every_preset_is_either_a_method_of_one_phase_or_begins_supervised(base, tmp_path):
    assert set(PRESETS) - set(METHODS) == {"sft", "sft_then_grpo", "sft_then_hapo"}
    assert type(parts_of(base, tmp_path, "experiment=sft")[0][0]) is Supervised
    for preset, gate in (("sft_then_grpo", NeverGate), ("sft_then_hapo", BetaGate)):
        (first, second), _, _ = parts_of(base, tmp_path, f"experiment={preset}")
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
        ("gspo", lambda a, loss, m: (loss.clip.low, loss.clip.high, m.updates_per_batch), (3e-4, 4e-4, 4)),
        ("gspo", lambda a, loss, m: loss.ratio.__name__, "sequence_ratio"),
        ("rloo", lambda a, loss, m: loss.ratio.__name__, "sequence_product"),
        ("reinforce_pp", lambda a, loss, m: (loss.kl.__name__, loss.kl_coefficient), ("k2", 1e-5)),
        ("luffy", lambda a, loss, m: (loss.teacher.shape, loss.entropy_coefficient), (0.1, 0.001)),
        ("rl_plus", lambda a, loss, m: (loss.teacher.exploration, loss.entropy_coefficient), (0.5, 0.001)),
        ("hpt", lambda a, loss, m: (a.gate.max_successes, loss.teacher.coefficient(0)), (0, 1.0)),
        ("hpt", lambda a, loss, m: type(a.weighting.policy).__name__, "ConstantLength"),
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
def test_presets_hold_the_papers_values(base, tmp_path, preset, look, value):
    (algorithm,), (loss,), module = parts_of(base, tmp_path, f"experiment={preset}")
    assert look(algorithm, loss, module) == value


def test_the_annealed_preset_ends_with_exactly_no_injection(base, tmp_path):
    """A policy that never succeeds is helped until the threshold meets the cut-off, 1/6, and never again."""
    (algorithm,), _, module = parts_of(base, tmp_path, "experiment=hapo_annealed")
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


@pytest.mark.parametrize("shape", ["numina", "numina_cot", "openr1", "luffy46k"])
def test_every_data_set_reaches_the_policy_from_local_files(base, tmp_path, shape):
    file = tmp_path / "rows.parquet"
    pd.DataFrame(rows_of(shape)).to_parquet(file)
    (tmp_path / "evaluation.jsonl").write_text(json.dumps({"problem": "what is  4-1 in the list?"}) + "\n")
    config = train(
        base,
        tmp_path,
        f"data={shape}",
        f"data.path={file}",
        f"data.evaluation_path={tmp_path / 'evaluation.jsonl'}",
        f"paths.cache={tmp_path / 'cache'}",
        "data.source.heldout_share=0.2",
        "data.buffer=16",
        "prompts_per_step=8",
        "verifier=math",
        "data.workers=0",
        "model.tokenizer._target_=support.configs.words",
    )
    (data,) = build(config, "data")
    batch = next(iter(data.train_dataloader()))
    assert batch.teacher_usable.all()
    assert len(set(batch.answers)) == 8
    assert "overlaps_evaluation" in data.dropped()
    facts = data.describe()
    assert facts["teacher_accuracy"] == 1.0
    assert facts["heldout_problems"] > 2
    if shape == "numina":
        assert "proof" in data.dropped()
        assert "marked_invalid" in data.dropped()
    if shape == "openr1":  # the longer of two right solutions
        assert data.sample()[1].count("twice") == 1


def test_the_pretrain_door_builds(tmp_path):
    config = composed("pretrain", "data.source.train_size=8", "data.source.heldout_size=4")
    assert check_names(config) > 10
    _, module, trainer = build(config, "data", "module", "trainer")
    assert trainer.max_epochs == 1
    assert sum(parameter.numel() for parameter in module.policy.parameters()) == 102_592


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=["=".join(option) for option in OPTIONS])
def test_every_option_of_every_group_names_real_parameters(group, option):
    config = composed("fabric" if group == "fabric" else "train", f"{group}={option}")
    OmegaConf.set_struct(config, False)
    if (group, option) == ("data", "files"):
        config.data.path = "train.jsonl"
    config.model.path, config.paths.run = "somewhere", "runs"
    OmegaConf.resolve(config)
    assert check_names(config[group]) >= 1


def test_known_keys_are_the_keys_of_core():
    planned = {"processes", "memory_gib"}
    assert set(composed("train")) == known_keys() - {"fabric"} - planned
    assert set(composed("pretrain")) == known_keys() - {"fabric"} - planned
    assert set(composed("fabric")) == known_keys() - {"trainer"} - planned
    assert set(composed("plan")) == known_keys() - {"trainer"}


def test_every_yaml_is_short():
    for path in CONF.rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 75, path


# -- what is wrong is said in one line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gat.threshold=0.3", "there is no key 'gat'; did you mean 'gate'?"),
        ("gate.treshold=0.3", "there is no key 'gate.treshold'; did you mean 'threshold'?"),
        ("+gate.treshold=0.3", "hapo_lit.gates.beta.BetaGate has no parameter 'treshold'; did you mean 'threshold'?"),
        ("+sead=1", "nothing reads the key 'sead'; did you mean 'seed'?"),
        ("experiment=grpoo", "there is no experiment=grpoo; did you mean 'grpo'?; there are: chord, chord_phi, dapo,"),
        ("gate=bta", "there is no gate=bta; did you mean 'beta'?; there are: always, beta, credible, failure"),
        ("group_size=1", "set group_size to 2 or more"),
        ("gate.threshold=2", "gate.threshold must stay in [0, 1], and is 2"),
        ("gate.threshold=high", "gate.threshold must be a number or a schedule, got 'high'"),
        ("teacher=nll teacher.coefficient=null", "teacher.coefficient must be a number or a schedule, got None"),
        ("weighting=separate weighting.teacher_share=null", "weighting.teacher_share must be a number or a schedule"),
        ("injector.ties=LeastLikely", "injector.ties must be an object"),
        ("loss.ratio.path=hapo_lit.losses.k3", "loss.ratio must be a function of 2 tensors, and 'k3' is not"),
        ("loss.kl.path=hapo_lit.losses.k9", "hapo_lit.losses has no 'k9'"),
        ("advantage=centred advantage.over.path=hapo_lit.advantages.onpolicy", "did you mean 'on_policy'?"),
        ("advantage=centred advantage.over.path=hapo_lit.advantages.centred", "must be a function of 1 tensors"),
        ("loss.clip.low=abc", "loss.clip.low must be a number and not negative, got 'abc'"),
        ("experiment=hapo_annealed gate=never", "NeverGate has no settings, but gate holds some"),
        ("experiment=chord weighting=token_mean", "TokenMean has no settings, but"),
        ("teacher=confidence gate=always", "there is none: set gate=beta or another teacher"),
        ("experiment=sft teacher=confidence", "there is none: set gate=beta or another teacher"),
        ("gate=scheduled gate.horizon=-5", "gate.probability is a schedule and needs a horizon of at least 1 step"),
        ("resume=gone.ckpt", "checkpoint 'gone.ckpt' does not exist; set resume=auto or RUN/checkpoints/last.ckpt"),
        ("save_minutes=0", "save_minutes must be above 0, or null for never, got 0"),
        ("callbacks.checkpointer.keep=0", "callbacks.checkpointer.keep must be at least 1, or -1 for all, got 0"),
        ("module.max_skipped=-1", "module.max_skipped must be at least 0, got -1"),
        ("model.path=/no/folder", "model folder '/no/folder' does not exist; set model.path"),
        ("phases=warmup steps=100", "phases {'warmup': 200, 'whole': None} do not add up to steps=100"),
        ("data=files", "data.path is not set, and has no default"),
        ("data=files data.path=a.jsonl", "data file 'a.jsonl' does not exist"),
        ("max_prompt_tokens=3", "all 384 prompts are longer than 3 tokens"),
        ("rollout.temperature=0", "training needs samples"),
        ("module.micro_batch_size=0", "module.micro_batch_size must be at least 1, got 0"),
        ("module.updates_per_batch=0", "module.updates_per_batch must be at least 1, got 0"),
        ("module.max_grad_norm=0", "would stop all learning"),
        ("prompts_per_step=0", "prompts_per_step must be at least 1, got 0"),
        ("prompts_per_step=500", "there are only 384 training problems"),
        ("eval_every=0", "eval_every must be a whole number of at least 1, got 0"),
        ("threads=0", "threads must be"),
        ("seed=-1", "seed must be a whole number of at least 0, got -1"),
        ("learning_rate=1e-4", "a group was given a float: name one of its options"),
        ("--experiment=grpo", "there is no option '--experiment=grpo': settings are key=value"),
        ("+optim.lr=3e-4", "set learning_rate.start"),
        ("trainer.max_epochs=2", "the length of a run is set by steps"),
        ("data.source.heldout_size=0", "there are no problems"),
        ("advantage.ddof=0", "there is no key 'advantage.ddof'; `--cfg job` prints all keys"),
        ("group_size=3", "gate.threshold=0.2 with 3 rollouts per group could never open: γ ≤ a0/(a0+b0+n) = 0.2"),
        ("injector=replace_group", "set teacher=nll or another injector"),
        ("trainer=bare", "keep a CSVLogger in logger"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp is not supported: set auto or ddp, or use `hapo fabric`"),
        ("seed=[", "no viable alternative"),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_the_fix(says, base, override, message):
    overrides = override.split(" ") if "{" not in override else [override]
    if not override.startswith("model"):
        overrides = [f"model.path={base}", *overrides]
    assert message in says("train", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=2", "there is no key 'trainer'"),
        ("fabric.precision=16-mixed", "fabric.precision=16-mixed is not supported: set 32-true or bf16-mixed"),
        ("fabric.sharded_checkpoints=true", "needs fabric.strategy=fsdp"),
        ("fabric.strategy=deepspeed", "is not supported: set auto, ddp or fsdp"),
        ("fabric.strategy=tpp", "fabric.strategy=tpp is not supported: set auto, ddp or fsdp"),
        ("resume=gone.ckpt", "checkpoint 'gone.ckpt' does not exist"),
    ],
)
def test_mistakes_at_the_fabric_door_too(says, base, override, message):
    assert message in says("fabric", f"model.path={base}", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.lora.rank=0", "model.lora.rank must be a whole number of at least 1"),
        ("model.lora.dropout=0.1", "dropout"),
        ("model.lora.rnak=4", "there is no key 'model.lora.rnak'; did you mean 'rank'?"),
    ],
)
def test_mistakes_in_the_adapter(says, base, override, message):
    assert message in says("train", f"model.path={base}", "model.lora.rank=4", override)


def test_unknown_verbs_are_named(says):
    said = "there is no verb 'tarin'; the verbs are: train, fabric, export, "
    said += "report, serve, prepare, pretrain, data, plan, verify"
    assert says("tarin") == said


def test_help_lists_the_verbs(capsys):
    cli.main([])
    assert "train" in capsys.readouterr().out
