"""What `hapo plan` counts is what real models, optimisers, caches and states hold; what it refuses is one line."""

from __future__ import annotations

from functools import partial

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from support.builders import TINY, write_base
from support.configs import composed, rows_of, words
from support.training import data, hapo, module, phase
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from hapo_lit import cli
from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.plan import without_contents
from hapo_lit.cli.setup import build
from hapo_lit.losses import Surrogate
from hapo_lit.planning import plan
from hapo_lit.planning.memory_dry_run import DryRun, Footprint, blank_rows, full_cache, gradient
from hapo_lit.policy.loading import load_policy, meta_model, policy_like
from hapo_lit.policy.model_config import check_lengths
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.policy.sharding import shard
from hapo_lit.rollout.hf import HFEngine, _growing_cache
from hapo_lit.schedules import Constant
from hapo_lit.teacher import UnitRatio
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.phases import Phase
from hapo_lit.training.run_state import capture
from hapo_lit.types import PromptBatch

PUBLIC = {"qwen_math_numina": 1_543_714_304, "qwen_math_numina_7b": 7_615_616_512}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
SHAPE = {**TINY, "model_type": "qwen2", "vocab_size": 97, "tie_word_embeddings": True}


def planned(*overrides, door="plan"):
    config = composed(door, "paths.run=run", *overrides)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        without_contents(config)
    return build(config, "module", "data")


def real_policy(checkpointing=False, **sizes):
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**SHAPE, **sizes}), dtype=torch.float32).train()
    if checkpointing:
        made.gradient_checkpointing_enable({"use_reentrant": False})
        made.disable_input_require_grads()
    return made


def outlined(checkpointing=False, **sizes):
    return meta_model("none", {**SHAPE, **sizes}, gradient_checkpointing=checkpointing)


# -- the presets


@pytest.mark.parametrize("preset", PUBLIC)
def test_the_presets_have_the_sizes_of_the_public_models(preset):
    made, problems = planned(f"experiment={preset}")
    weights = plan.weights_of(made)
    assert weights.count == PUBLIC[preset]
    assert {each.device.type for each in weights.policy} == {"meta"}
    config = made.policy.config
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (16384, 40000.0)
    assert made.policy.is_gradient_checkpointing
    (each,) = plan.phase_plans(made, problems.prompts_per_step, 8, 1024, 8192)
    assert (each.steps, each.prompts, each.prompts_each, each.rollouts) == (500, 128, 16, 8)
    assert (each.rows, each.teachers, each.micro_batches, each.updates) == (8, 1, 128, 1)
    assert (each.sampled, each.trained) == (128 * 8 * 8192, 128 * 8 * 9216)
    assert made.phases.learning_rate(0) == made.phases.learning_rate(499) == 1e-6
    optimizer = made.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert [optimizer.defaults[name] for name in ("betas", "weight_decay")] == [(0.9, 0.999), 0.01]


def test_the_preset_trains_a_small_model_from_local_files(tmp_path, monkeypatch):
    """All of it but its sizes: the data's columns, the prompt, the widened positions, bf16-mixed, checkpoints."""
    pd.DataFrame(rows_of("luffy46k")).to_parquet(tmp_path / "rows.parquet")
    tokenizer = words("")
    sizes = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": 0, "max_position_embeddings": 4096}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    small = ["steps=1", "prompts_per_step=2", "group_size=8", "max_response_tokens=40", "max_prompt_tokens=2000"]
    small += ["data.workers=0", "data.source.heldout_share=0.3", "data.source.heldout_size=2"]
    small += [f"paths.cache={tmp_path}", "hydra.run.dir=run", "rollout=hf"]
    cli.main(["train", "experiment=qwen_math_numina", "model.path=base", "data.path=rows.parquet", *small])
    config = AutoConfig.from_pretrained(tmp_path / "run" / "policy")
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (16384, 40000.0)
    prompt = pd.read_json(tmp_path / "run" / "completions.jsonl", lines=True).prompt[0]
    assert prompt.startswith("Your task is to follow")
    assert prompt.endswith("Assistant: <think>\n")


# -- positions


def test_a_loaded_policy_reaches_further_and_a_state_of_it_too(make_policy, tmp_path):
    make_policy().save_pretrained(tmp_path / "base")
    as_it_is = load_policy(str(tmp_path / "base"))
    wide = load_policy(str(tmp_path / "base"), positions=512, rope_theta=4e4)
    assert as_it_is.config.max_position_embeddings == 256
    assert wide.config.max_position_embeddings == 512
    assert all(map(torch.equal, as_it_is.parameters(), wide.parameters()))
    wide.config.save_pretrained(tmp_path / "saved")
    again = policy_like(str(tmp_path / "saved"))
    again.load_state_dict(wide.state_dict())
    tokens = torch.arange(4, 24)[None]
    with torch.no_grad():
        first, second, third = (each(tokens).logits for each in (as_it_is, wide, again.train()))
    assert not torch.allclose(first, second)
    assert torch.equal(second, third)
    assert repr(meta_model(str(tmp_path / "base"), positions=512, rope_theta=4e4).config) == repr(wide.config)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ({}, {"positions": 0}, "model.positions must be a whole number of at least 1, or null, got 0"),
        ({}, {"rope_theta": "big"}, "model.rope_theta must be a number above 1, or null, got 'big'"),
        ({"rope_parameters": LINEAR}, {"rope_theta": 4e4}, "(linear): leave it null"),
        ({"num_key_value_heads": 3}, {}, "num_attention_heads=2 is not divisible by num_key_value_heads=3"),
        ({"num_attention_heads": 5}, {}, "hidden_size=32 is not divisible by num_attention_heads=5"),
        (None, {}, "the shape of 'some/model' is not known here: give model.shape, or a local folder as model.path"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape, settings, message):
    with pytest.raises(ValueError) as error:
        meta_model("some/model", None if shape is None else {**SHAPE, **shape}, **settings)
    assert message in str(error.value)


def test_a_text_may_fill_all_positions_and_no_more():
    config = AutoConfig.for_model(**SHAPE)
    check_lengths(config, 100, 156)
    with pytest.raises(ValueError, match=r"set model.positions=257 and a larger model.rope_theta"):
        check_lengths(config, 100, 157)


# -- exact parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [{}, {"head_dim": 24, "num_key_value_heads": 2, "num_hidden_layers": 3}])
def test_keys_and_values_take_what_is_said(sizes, dtype):
    policy = real_policy(**sizes).to(dtype).eval()
    cache = DynamicCache(config=policy.config)
    with torch.no_grad():
        policy(torch.ones(3, 11, dtype=torch.int64), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 3 * 11 * plan.kv_bytes_per_token(policy.config, dtype)


def test_the_engines_spare_room_is_that_of_a_cache_that_grew_token_by_token():
    policy = real_policy()
    for prompt, length in ((5, 5), (5, 6), (9, 300)):
        grown = _growing_cache(policy)
        for width in (prompt, *[1] * (length - prompt)):
            for layer in grown.layers:
                layer.update(*(torch.zeros(2, 1, width, 16) for _ in range(2)))
        for mine, theirs in zip(
            full_cache(policy, 2, prompt, length, (torch.float32,) * 2).layers, grown.layers, strict=True
        ):
            assert mine.keys.shape == theirs.keys.shape == (2, 1, length, 16)
            assert (mine._room is None) == (theirs._room is None) == (length == prompt)
            assert mine._room is None or mine._room[0].shape == theirs._room[0].shape


def test_a_rollout_batch_is_that_of_the_process_with_most():
    assert plan.rollout_batch(128, 8, 7, 1024, 8192) == (16 * 7, 9216)
    assert plan.rollout_batch(10, 4, 2, 1, 1) == (3 * 2, 2)


def made_with(policy, tokenizer, kl=0.0, optimizer=None, **settings):
    made = module(policy, tokenizer, phase(hapo(), kl=kl), **settings)
    made.make_optimizer = optimizer or made.make_optimizer
    return made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_weights_gradients_moments_and_states_are_those_of_a_real_run(tokenizer, tmp_path, tied, kl):
    sizes = {"tie_word_embeddings": tied, "vocab_size": len(tokenizer)}
    real, shapes = (made_with(make(**sizes), tokenizer, kl) for make in (real_policy, outlined))
    weights = plan.weights_of(shapes)
    kept, _ = DryRun(shapes, mixed=False).optimizer()
    memory = plan.memory(weights, plan.TransientMemory({}, {}, 0, kept))

    real.optimizer = optimizer = real.configure_optimizers()
    real.loss(blank_rows(real, 2, 3, 4)).loss.backward()
    optimizer.step()
    trained = list(real.policy.parameters())
    assert memory.lasting["weights"] == sum(each.nbytes for each in trained)
    assert memory.lasting["gradients"] == sum(each.grad.nbytes for each in trained)
    moments = [value for each in optimizer.state.values() for value in each.values()]
    assert memory.lasting["optimiser"] == sum(each.nbytes for each in moments)
    assert memory.lasting.get("reference", 0) == (memory.lasting["weights"] if kl else 0)

    real.data = problems = data(tokenizer)
    problems.setup()
    state = capture(real, problems, {})
    saved = [value for each in state["optimizer"]["state"].values() for value in each.values()]
    said = plan.state_bytes(weights, kept)
    assert said == sum(each.nbytes for each in (*state["module"].values(), *saved))
    file = CheckpointFolder(tmp_path).write(1, state).stat().st_size
    assert said < file < said + 64 * 1024  # names, generators and the archive's directory
    real.policy.save_pretrained(tmp_path / "policy")
    assert weights.exported < (tmp_path / "policy" / "model.safetensors").stat().st_size < weights.exported + 8192


def test_an_adapter_alone_has_gradients_and_moments():
    shapes = made_with(meta_model("none", SHAPE, lora={"rank": 3}), None)
    weights = plan.weights_of(shapes)
    kept, _ = DryRun(shapes, mixed=False).optimizer()
    memory = plan.memory(weights, plan.TransientMemory({}, {}, 0, kept))
    # rank 3 times (in + out) of q, k, v, o, gate, up, down in two layers
    count = 2 * 3 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 48) + (48 + 32))
    assert memory.lasting["gradients"] == 4 * count
    assert memory.lasting["optimiser"] == 2 * 4 * count + 4 * 2 * 2 * 7
    assert memory.lasting["weights"] == weights.exported + 4 * count
    assert weights.exported == 4 * sum(each.numel() for each in outlined().parameters())


def test_other_optimisers_keep_what_they_keep():
    shapes = made_with(outlined(), None, optimizer=partial(torch.optim.SGD, lr=0.1))
    assert DryRun(shapes, mixed=False).optimizer() == ([], 0)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_a_shard_is_as_large_as_fsdp2_makes_it(processes, tokenizer):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    made = made_with(real_policy(vocab_size=len(tokenizer)), tokenizer, kl=0.1)
    said = plan.memory(plan.weights_of(made), plan.TransientMemory({}, {}, 0, []), processes, sharded=True)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        shard(made, dist.device_mesh.init_device_mesh("cpu", (processes,)))
        states = [*made.policy.parameters()], [*made.reference.parameters()]
        sizes = [sum(each._local_tensor.untyped_storage().nbytes() for each in parameters) for parameters in states]
    finally:
        dist.destroy_process_group()
    assert [said.lasting["weights"], said.lasting["reference"]] == sizes
    assert said.lasting["gradients"] == sizes[0]


def test_several_processes_hold_more_with_ddp_and_less_with_fsdp():
    weights = plan.weights_of(made_with(outlined(), None))
    passing = plan.TransientMemory({"keys and values": 1000}, {"activations": 500}, 800, [])
    alone, ddp, fsdp = (plan.memory(weights, passing, *each) for each in ((1, False), (4, False), (4, True)))
    whole = 4 * weights.count
    assert ddp.peak - alone.peak == ddp.lasting["buckets of ddp"] == whole
    assert whole / 4 <= fsdp.lasting["weights"] < 1.02 * whole / 4
    assert fsdp.moments[plan.SAMPLING]["gathered weights"] == whole
    root = 4 * (97 * 32 + 32)
    assert fsdp.moments[plan.GRADIENT]["gathered weights"] == 2 * root + 3 * (whole - root) // 2
    assert fsdp.moments[plan.STEP]["temporaries"] == 200
    assert alone.worst == plan.SAMPLING


# -- what is held for a moment


def loss_module(make, checkpointing, entropy=0.0, kl=0.0, **sizes):
    learn = Phase(hapo(), Surrogate(UnitRatio(), entropy_coefficient=entropy, kl_coefficient=kl), Constant(1e-3))
    return module(make(checkpointing, **sizes), None, learn)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_hidden_layers": 5, "vocab_size": 400, "tie_word_embeddings": False, "model_type": "llama"},
        {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "entropy": 0.01, "kl": 0.1},
    ],
    ids=["qwen2", "llama", "entropy, kl"],
)
def test_a_dry_pass_holds_what_a_real_one_holds_to_the_byte(monkeypatch, sizes, checkpointing, mixed):
    monkeypatch.setattr(token_logprobs, "__defaults__", (1.0, 4096, False))  # chunks of 10 to 42 tokens
    dry = DryRun(loss_module(outlined, checkpointing, **sizes), mixed).gradient(3, 20, 150)
    real = loss_module(real_policy, checkpointing, **sizes)
    batch = blank_rows(real, 3, 20, 150)
    batch.text.prompt_mask[0, 0] = False  # without any padding no mask is made
    found = gradient(real, batch, mixed)
    assert dry.peak.total() == found.peak.total() > 0


def test_more_than_a_chunk_of_logits_is_never_held():
    shapes = [DryRun(loss_module(outlined, True, vocab_size=30_000), False) for _ in range(2)]
    few, many = shapes[0].gradient(1, 4, 700), shapes[1].gradient(4, 4, 2000)
    assert 0 < many.most_logits <= 1.2 * few.most_logits
    assert many.most_logits < 4 * 2000 * 30_000 * 4 / 2


def test_the_allocator_gives_out_what_is_planned():
    """torch's own account of the pass, kernels' buffers included, is within 2 %."""
    dry = DryRun(loss_module(outlined, False, vocab_size=2000), mixed=False).gradient(4, 30, 300)
    real = loss_module(real_policy, False, vocab_size=2000)
    batch = blank_rows(real, 4, 30, 300)
    batch.text.prompt_mask[0, 0] = False
    for each in real.policy.parameters():
        each.grad = torch.zeros_like(each)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        real.loss(batch).loss.backward()
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert dry.peak.total() == pytest.approx(peak, rel=0.02)


def test_checkpoints_save_memory_and_the_optimisers_step_needs_a_copy():
    kept, saved = (
        DryRun(loss_module(outlined, each, num_hidden_layers=8), False).gradient(2, 10, 200).peak.total()
        for each in (False, True)
    )
    assert saved < 0.5 * kept
    shapes = made_with(outlined(), None)
    moments, step = DryRun(shapes, False).optimizer()
    assert step >= 4 * plan.weights_of(shapes).count  # foreach: the square roots of all second moments at once
    assert len(moments) == 3 * len(list(shapes.policy.parameters()))


@pytest.mark.parametrize("mixed", [False, True])
def test_sampling_holds_what_a_real_engine_holds_when_no_response_ends(mixed):
    """But for its table of draws, what it returns, and a layer's old room while the new one is filled: 1 to 4 %."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 6}
    engine = HFEngine(200, stop_ids=[10_000])
    dry = DryRun(made_with(outlined(True, **sizes, vocab_size=1000), None), mixed)
    cache, besides = dry.decoding(engine, 4 * 8, 30, 200)
    assert dry.module.policy.training

    policy = real_policy(**sizes, vocab_size=1000)
    mask = torch.ones(4, 30, dtype=torch.bool)
    mask[0, 0] = False
    prompts = PromptBatch(
        prompt_ids=torch.arange(4),
        tokens=mask.long(),
        mask=mask,
        answers=("",) * 4,
        teacher_tokens=torch.ones(4, 1, dtype=torch.int64),
        teacher_mask=torch.ones(4, 1, dtype=torch.bool),
        teacher_rewards=torch.ones(4),
    )
    engine.sync(policy)
    with Footprint(policy.parameters(), policy.buffers()) as real, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        engine.generate(prompts, 8, 0)
    assert 0.95 < (cache + besides.peak.total()) / real.peak.total() <= 1


# -- the batch


@pytest.mark.parametrize(
    ("preset", "expected"),
    [  # of each phase: steps, rollouts, rows, teachers
        ("hapo", [(600, 4, 4, 1)]),
        ("grpo", [(600, 4, 4, 0)]),
        ("luffy", [(600, 7, 8, 1)]),
        ("relift", [(600, 8, 9, 1)]),
        ("hpt", [(600, 8, 8, 1)]),
        ("sft_then_hapo", [(200, 0, 1, 1), (400, 4, 4, 1)]),
    ],
)
def test_rows_are_those_that_the_injector_makes(preset, expected):
    made, problems = planned(f"experiment={preset}", door="train")
    found = plan.phase_plans(made, problems.prompts_per_step, 1, 64, 72)
    assert [(each.steps, each.rollouts, each.rows, each.teachers) for each in found] == expected


# -- the verb


@pytest.fixture
def says(monkeypatch, capsys, tmp_path):
    def run(*arguments, status=0):
        monkeypatch.chdir(tmp_path)
        GlobalHydra.instance().clear()
        if status:
            with pytest.raises(SystemExit) as stop:
                cli.main(["plan", *arguments])
            assert stop.value.code == status
        else:
            cli.main(["plan", *arguments])
        assert not list(tmp_path.iterdir())
        out, err = capsys.readouterr()
        return err.strip() if status else (out, err.strip())

    return run


SHORT = ["model.shape.num_hidden_layers=2", "max_response_tokens=256"]


def numbers(out, name):
    (line,) = (each for each in out.splitlines() if each.strip().startswith(name))
    return [float(each.replace(",", "")) for each in line.split(name)[1].split() if each not in ("GiB", "MiB")]


def test_the_plan_of_a_preset_in_print(says):
    out, err = says("experiment=qwen_math_numina_7b", "processes=8", "fabric.strategy=fsdp", "memory_gib=4", *SHORT)
    for fact in ("128, 16 of each process", "at most 128, of 1 row", "16,384 positions", "fsdp*", "11, each greedy"):
        assert fact in out
    weights = numbers(out, "weights")
    assert weights[0] == pytest.approx(8 * weights[1], rel=0.02)
    ddp, fsdp = numbers(out, "at most  ")
    assert ddp > fsdp > 4
    assert err.startswith(f"warning: a process holds {fsdp:.2f} GiB")
    assert "memory_gib=4" in err
    assert says("experiment=qwen_math_numina_7b", "processes=8", "memory_gib=1000", *SHORT)[1] == ""


def test_the_default_is_planned_without_its_base_policy(says):
    out, _ = says()
    assert "102,592 parameters" in out
    assert "600 steps" in out
    assert "one process" in out
    with_adapter, _ = says("model.lora.rank=4", "loss.kl_coefficient=0.1")
    assert "of them trained" in with_adapter
    assert "reference" not in with_adapter


def test_a_local_folders_configuration_counts_and_not_the_presets_shape(says, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    AutoConfig.for_model(**SHAPE).save_pretrained(folder)
    out, _ = says("experiment=qwen_math_numina", f"model.path={folder}", "max_response_tokens=64")
    assert f"{sum(each.numel() for each in outlined().parameters()):,} parameters" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["processes=7"], "prompts_per_step=128 is not divisible by 7 processes: set prompts_per_step=133, or take 4"),
        (
            ["model.positions=null"],
            "9216 tokens, and the model has 4096 positions: lower one of them, or set model.positions",
        ),
        (["model.shape.num_key_value_heads=5"], "num_attention_heads=12 is not divisible by num_key_value_heads=5"),
        (["gate.threshold=0.95"], "gate.threshold=0.95 with 8 rollouts per group could never close"),
        (["gate.threshold=0.05"], "gate.threshold=0.05 with 8 rollouts per group could never open"),
        (["module.micro_batch_size=0"], "module.micro_batch_size must be at least 1, got 0"),
        (["fabric.devices=auto"], "fabric.devices=auto depends on the machine: set processes, such as processes=8"),
        (["processes=0"], "processes must be a whole number of at least 1, or null, got 0"),
        (["memory_gib=0"], "memory_gib must be a number above 0, or null, got 0"),
        (["precision=16-mixed"], "fabric.precision=16-mixed is not supported: set 32-true or bf16-mixed"),
        (["fabric.strategy=zero"], "fabric.strategy=zero is not supported: set auto, ddp or fsdp"),
        (["model=hf", "model.path=some/model"], "the shape of 'some/model' is not known here"),
        (["trainer.devices=8"], "there is no key 'trainer'"),
        (["data.path=gone.parquet"], "data file 'gone.parquet' does not exist"),
        (["callbacks.checkpointer.best=heldout/other"], "callbacks.checkpointer.best=heldout/other is not measured"),
        (["processes=2", "consistency_every=5"], "consistency_every measures the gradient of one process"),
    ],
)
def test_what_can_be_seen_before_a_run_is_refused_in_one_line(says, arguments, message):
    error = says("experiment=qwen_math_numina", *arguments, status=2)
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_doors_refuse_more_tokens_than_the_model_has_positions(tmp_path, monkeypatch, capsys):
    write_base(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for door in ("train", "fabric"):
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit):
            cli.main([door, "model.path=base", "max_response_tokens=200"])
        assert "are 264 tokens, and the model has 256 positions" in capsys.readouterr().err


def test_the_verb_composes_what_the_fabric_door_composes():
    with initialize_config_dir(config_folder(), version_base="1.3"):
        door, verb = (compose(name, ["experiment=qwen_math_numina"]) for name in ("fabric", "plan"))
    assert {key: value for key, value in verb.items() if key not in ("processes", "memory_gib")} == door
