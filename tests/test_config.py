"""Every shipped configuration composes, builds, and names only parameters that exist."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from hapo_lit import cli
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.cli.setup import KEYS, build, config_folder
from hapo_lit.gates import AlwaysGate, BetaGate, NeverGate
from hapo_lit.injectors import NoInjection, ReplaceSlot, ReplaceWorst
from hapo_lit.teacher import ShapedRatio, UnitRatio

CONF = Path(config_folder())
PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("experiment", "hydra"))
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a random policy and the tokenizer, in place of the base policy."""
    from conftest import TINY

    from hapo_lit.data.arithmetic import arithmetic_tokenizer
    from hapo_lit.policy import new_policy

    folder = tmp_path_factory.mktemp("base")
    tokenizer = arithmetic_tokenizer()
    new_policy("qwen2", {**TINY, "tie_word_embeddings": True}, tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def composed(door, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(door, overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        OmegaConf.set_struct(config, True)
    return config


def train(base, folder, *overrides):
    return composed("train", f"model.path={base}", f"paths.run={folder}", *overrides)


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
    assert len(data.train_set) == 40
    assert trainer.limit_train_batches == config.steps == module.phases.steps


def test_presets_are_the_methods_they_name(base, tmp_path):
    def parts(preset):
        _, module, _ = build(train(base, tmp_path, f"experiment={preset}"), "data", "module", "trainer")
        return [phase.algorithm for phase in module.phases], [phase.loss for phase in module.phases]

    (hapo,), (loss,) = parts("hapo")
    assert (hapo.group_size, type(hapo.gate), hapo.gate.threshold) == (4, BetaGate, 0.2)
    assert (type(hapo.injector), type(loss.teacher)) == (ReplaceWorst, UnitRatio)
    (paper,), (loss,) = parts("hapo_paper")
    assert (paper.group_size, paper.gate.threshold, paper.gate.discount) == (8, 0.8, 0.0)
    assert (type(loss.teacher), loss.teacher.shape, loss.kl_coefficient) == (ShapedRatio, 0.1, 0.0)
    (grpo,), _ = parts("grpo")
    assert (type(grpo.gate), type(grpo.injector)) == (NeverGate, NoInjection)
    (luffy,), (loss,) = parts("luffy")
    assert (type(luffy.gate), type(luffy.injector), loss.clip_high) == (AlwaysGate, ReplaceSlot, float("inf"))
    (sft,), _ = parts("sft")
    assert type(sft) is Supervised
    for preset, gate in (("sft_then_grpo", NeverGate), ("sft_then_hapo", BetaGate)):
        (first, second), _ = parts(preset)
        assert (type(first), type(second), type(second.gate)) == (Supervised, Hapo, gate)


def test_the_pretrain_door_builds(tmp_path):
    config = composed("pretrain", "data.source.train_size=8", "data.source.heldout_size=4")
    assert check_names(config) > 10
    _, module, trainer = build(config, "data", "module", "trainer")
    assert trainer.max_epochs == 1
    assert sum(parameter.numel() for parameter in module.policy.parameters()) == 102_592


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=["=".join(option) for option in OPTIONS])
def test_every_option_of_every_group_names_real_parameters(group, option):
    config = composed("train", f"{group}={option}")
    OmegaConf.set_struct(config, False)
    if (group, option) == ("data", "files"):
        config.data.source.update(path="train.jsonl", heldout_path="heldout.jsonl")
    config.model.path, config.paths.run = "somewhere", "runs"
    OmegaConf.resolve(config)
    assert check_names(config[group]) >= 1


def test_known_keys_are_the_keys_of_core():
    assert set(composed("train")) == KEYS
    assert set(composed("pretrain")) == KEYS


def test_every_yaml_is_short():
    for path in CONF.rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 75, path


# -- what is wrong is said in one line


@pytest.fixture
def says(monkeypatch, capsys, tmp_path, base):
    """Runs the command and returns the one line it leaves with."""
    from hydra.core.global_hydra import GlobalHydra

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            cli.main(list(arguments))
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("hapo: error: ")
        assert not list(tmp_path.rglob("*.ckpt"))
        return lines[0].removeprefix("hapo: error: ")

    return run


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gat.threshold=0.3", "there is no key 'gat'; did you mean 'gate'?"),
        ("gate.treshold=0.3", "there is no key 'gate.treshold'; did you mean 'threshold'?"),
        ("+gate.treshold=0.3", "hapo_lit.gates.BetaGate has no parameter 'treshold'; did you mean 'threshold'?"),
        ("+sead=1", "nothing reads the key 'sead'; did you mean 'seed'?"),
        ("experiment=grpoo", "there is no experiment=grpoo; did you mean 'grpo'?; there are: grpo, hapo,"),
        ("gate=bta", "there is no gate=bta; did you mean 'beta'?; there are: always, beta, credible, failure"),
        ("group_size=1", "set group_size to 2 or more"),
        ("gate.threshold=2", "gate threshold must be in (0, 1], got 2"),
        ("resume=gone.ckpt", "checkpoint 'gone.ckpt' does not exist; set resume to RUN/checkpoints/last.ckpt"),
        ("model.path=/no/folder", "model folder '/no/folder' does not exist; set model.path"),
        ("phases=warmup steps=100", "phases {'warmup': 200, 'whole': None} do not add up to steps=100"),
        ("data=files", "data.source.path"),
        ("data=files data.source.path=a.jsonl data.source.heldout_path=b.jsonl", "data file 'a.jsonl' does not exist"),
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
        ("group_size=3", "the posterior mean lies between 0.2 and 0.8, so the gate could never open"),
        ("injector=replace_group", "set teacher=nll or another injector"),
        ("trainer=bare", "keep a CSVLogger in trainer.logger"),
        ("trainer.devices=2", "set trainer.devices=1"),
        ("seed=[", "no viable alternative"),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_the_fix(says, base, override, message):
    overrides = override.split(" ") if "{" not in override else [override]
    if not override.startswith("model"):
        overrides = [f"model.path={base}", *overrides]
    assert message in says("train", *overrides)


def test_unknown_verbs_are_named(says):
    assert says("tarin") == "there is no verb 'tarin'; the verbs are: train, pretrain"


def test_help_lists_the_verbs(capsys):
    cli.main([])
    assert "train" in capsys.readouterr().out
