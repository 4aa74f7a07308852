"""An adapter starts at its base, is trained alone, can be left out, and becomes a plain checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from support.builders import make_group
from support.engines import engine, prompt_batch
from transformers import AutoModelForCausalLM

from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.policy.adapters import has_adapter, merged, plain_weights, without_adapter
from hapo_lit.policy.loading import load_policy, policy_like
from hapo_lit.policy.scoring import positions, token_logprobs

both_kinds = pytest.mark.parametrize(
    ("architecture", "tied"), [(name, tied) for name in ("qwen2", "llama") for tied in (True, False)]
)


@pytest.fixture
def base(make_policy, tmp_path):
    """Saves a random policy and gives its folder."""

    def save(architecture="qwen2", tied=True):
        make_policy(architecture, tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
        return str(tmp_path / "base")

    return save


def adapted(path, dtype="float32", **lora):
    return load_policy(path, dtype, lora={"rank": 3, **lora})


def learnt(policy):
    """The policy with an adapter that is not zero."""
    draw = torch.Generator().manual_seed(5)
    for parameter in adapter(policy).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return policy


def adapter(policy):
    return {name: parameter for name, parameter in policy.named_parameters() if "lora_" in name}


def logits(policy):
    tokens = torch.arange(4, 24).reshape(4, 5)
    with torch.no_grad():
        return policy(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits


@both_kinds
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_with_an_adapter_starts_exactly_at_its_base(base, architecture, tied, dtype):
    path = base(architecture, tied)
    plain, policy = load_policy(path, dtype), adapted(path, dtype)
    assert has_adapter(policy)
    assert not has_adapter(plain)
    assert not has_adapter(load_policy(path, lora={"rank": None, "alpha": 8}))
    assert type(policy) is type(plain)
    assert torch.equal(logits(policy), logits(plain))
    assert not torch.equal(logits(learnt(policy)), logits(plain))


@both_kinds
def test_every_layer_but_the_head_is_adapted_and_only_adapters_learn(base, architecture, tied):
    policy = learnt(adapted(base(architecture, tied)))
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    assert len(adapter(policy)) == 2 * 2 * 7  # A and B of q, k, v, o, gate, up, down in two layers
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == set(adapter(policy))
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    token_logprobs(policy, make_group([[0, 1, 0], [1, 0, 0]]).text())[0].sum().backward()
    optimizer.step()
    moved = {name for name, parameter in policy.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(adapter(policy))


def test_named_layers_alone_are_adapted(base):
    names = adapter(adapted(base(), targets=["q_proj", "mlp.up_proj"]))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"q_proj", "up_proj"}
    assert len(names) == 2 * 2 * 2


def test_an_adapted_head_scores_samples_and_learns_as_its_layer_does(base):
    policy = learnt(adapted(base(tied=False), targets=["lm_head"])).double()
    text = make_group([[0, 1], [1, 0]], lengths=[[2, 4], [3, 1]]).text()
    ids, mask = torch.cat([text.prompt_tokens, text.tokens], 1), torch.cat([text.prompt_mask, text.mask], 1)
    all_logits = policy(input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask)).logits
    logprobs = all_logits[:, -text.tokens.shape[1] - 1 : -1].log_softmax(-1).gather(-1, text.tokens[..., None])[..., 0]
    ours = token_logprobs(policy, text)[0]
    torch.testing.assert_close(ours[text.mask], logprobs[text.mask], atol=1e-12, rtol=0)
    factors = list(adapter(policy).values())
    here, there = (torch.autograd.grad(values[text.mask].sum(), factors) for values in (ours, logprobs))
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    group = engine(policy).generate(prompt_batch(2), 3, step=0)
    sampled, scored = group.behaviour_logprobs.flatten(0, 1), token_logprobs(policy, group.text())[0].detach()
    torch.testing.assert_close(sampled[group.text().mask].double(), scored[group.text().mask], atol=1e-5, rtol=0)
    with without_adapter(policy):
        assert not torch.allclose(token_logprobs(policy, text)[0], ours)


def test_alpha_over_rank_scales_the_adapter(base):
    """A product of rank 3 at alpha 6 counts twice."""
    policy = learnt(adapted(base(), alpha=6, targets=["o_proj"]))
    weights = policy.state_dict()
    plain = merged(policy).state_dict()
    stem = "model.layers.1.self_attn.o_proj"
    product = weights[f"{stem}.lora_B.default.weight"] @ weights[f"{stem}.lora_A.default.weight"]
    torch.testing.assert_close(plain[f"{stem}.weight"], weights[f"{stem}.base_layer.weight"] + 2 * product)


def test_the_initialisation_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(base):
    path = base()
    state = torch.get_rng_state()
    one, same, other = (adapter(adapted(path, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if "lora_A" in name)


# -- without it


@both_kinds
def test_without_its_adapter_a_policy_is_its_base(base, architecture, tied):
    path = base(architecture, tied)
    text = make_group([[0, 1], [1, 0]]).text()
    expected, policy = logits(load_policy(path)), learnt(adapted(path))
    scored = token_logprobs(load_policy(path), text)[0]
    full = logits(policy)
    with without_adapter(policy):
        assert torch.equal(logits(policy), expected)
        assert torch.equal(token_logprobs(policy, text)[0], scored)
    assert torch.equal(logits(policy), full)
    assert not torch.equal(full, expected)


def test_leaving_the_adapter_out_nests_survives_errors_and_touches_no_parameter(base):
    path = base()
    expected, policy = logits(load_policy(path)), learnt(adapted(path))
    full = logits(policy)
    flags = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}

    def unchanged():
        return flags == {name: parameter.requires_grad for name, parameter in policy.named_parameters()}

    with without_adapter(policy):
        with without_adapter(policy):
            assert unchanged()
        assert torch.equal(logits(policy), expected)  # the inner end does not switch it on again
    assert torch.equal(logits(policy), full)
    with pytest.raises(KeyError), without_adapter(policy):
        raise KeyError
    assert torch.equal(logits(policy), full)
    assert unchanged()


def test_a_model_without_an_adapter_has_none_to_leave_out(policy):
    with pytest.raises(ValueError, match=r"has no adapter to leave out; set model.lora.rank"), without_adapter(policy):
        pass


# -- as a plain model


@both_kinds
def test_a_merged_policy_is_an_ordinary_checkpoint(base, tmp_path, architecture, tied):
    path = base(architecture, tied)
    policy, ordinary = learnt(adapted(path)).double(), load_policy(path).double()
    expected, weights = logits(policy), {name: value.clone() for name, value in policy.state_dict().items()}
    plain = merged(policy)
    assert type(plain) is type(ordinary)
    assert not has_adapter(plain)
    assert list(plain.state_dict()) == list(ordinary.state_dict())
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) == tied
    assert all(parameter.requires_grad for parameter in plain.parameters())
    torch.testing.assert_close(logits(plain), expected, atol=1e-10, rtol=0)
    assert (expected - logits(ordinary)).abs().max() > 0.1  # the adapter had something to say

    plain.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged/adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float64)
    torch.testing.assert_close(logits(loaded), expected, atol=1e-10, rtol=0)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied

    assert has_adapter(policy)
    assert torch.equal(logits(policy), expected)
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert torch.equal(logits(policy), expected)  # nothing is shared


@pytest.mark.parametrize("tied", [True, False])
def test_plain_weights_are_those_of_the_merged_policy(base, tied):
    policy = learnt(adapted(base("qwen2", tied)))
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = dict(plain_weights(policy))
    expected = dict(merged(policy).named_parameters())
    assert set(weights) == set(expected)
    assert max(float((weights[name] - weight.detach()).abs().max()) for name, weight in expected.items()) < 1e-6
    assert all(torch.equal(parameter, before[name]) for name, parameter in policy.named_parameters())


def test_a_policy_without_an_adapter_is_its_own_merged_self(policy):
    assert merged(policy) is policy


def test_samples_come_from_the_adapted_policy(base):
    policy = learnt(adapted(base()))
    prompts = prompt_batch(4)
    group, plain = (engine(model).generate(prompts, 3, step=0) for model in (policy, merged(policy)))
    assert torch.equal(group.tokens, plain.tokens)
    torch.testing.assert_close(group.behaviour_logprobs, plain.behaviour_logprobs, atol=1e-4, rtol=0)
    with without_adapter(policy):
        assert not torch.equal(engine(policy).generate(prompts, 3, step=0).tokens, group.tokens)
    text = group.text()
    scored = token_logprobs(policy, text)[0].detach()
    sampled = torch.where(text.mask, group.behaviour_logprobs.flatten(0, 1), 0.0)
    torch.testing.assert_close(sampled, scored, atol=1e-4, rtol=0)


# -- a bfloat16 base, weights that come later, and the configuration


def test_the_adapter_of_a_bfloat16_base_is_float32(base):
    path = base()
    policy = learnt(adapted(path, "bfloat16"))
    assert {parameter.dtype for parameter in adapter(policy).values()} == {torch.float32}
    assert {weight.dtype for name, weight in policy.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    token_logprobs(policy, make_group([[0, 1, 0], [1, 0, 0]]).text())[0].sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapter(policy).values())
    plain = merged(policy)
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}
    error = (logits(plain) - logits(policy)).float().std()
    assert error < 0.05 * (logits(load_policy(path, "bfloat16")) - logits(policy)).float().std()


@both_kinds
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapted_policys_weights_fit_a_model_made_from_its_configuration(base, tmp_path, architecture, tied, dtype):
    settings = {"rank": 3, "alpha": 5, "targets": ["q_proj", "down_proj"]}
    policy = learnt(load_policy(base(architecture, tied), dtype, lora=settings))
    policy.config.save_pretrained(tmp_path / "bare")
    bare = policy_like(str(tmp_path / "bare"), settings)
    assert {name: weight.dtype for name, weight in bare.state_dict().items()} == {
        name: weight.dtype for name, weight in policy.state_dict().items()
    }
    bare.load_state_dict(policy.state_dict())
    assert torch.equal(logits(bare), logits(policy))
    plain = merged(bare)
    assert torch.equal(logits(plain), logits(merged(policy)))
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("option", ["hf", "tiny"])
def test_the_rank_is_one_override(base, option):
    overrides = [f"model={option}", f"model.path={base()}", "seed=7", "model.gradient_checkpointing=true"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plain = compose("train", overrides)
        config = compose("train", [*overrides, "model.lora.rank=2", "model.lora.targets=[v_proj]"])
    assert not has_adapter(instantiate(plain.model.policy))
    policy = instantiate(config.model.policy)
    assert policy.is_gradient_checkpointing
    expected = adapter(adapted(config.model.path, rank=2, targets=["v_proj"], seed=7))
    assert adapter(policy).keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in adapter(policy).items())


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, "model.lora.rank must be a whole number of at least 1, or null to train all weights, got 0"),
        ({"rank": 2.0}, "model.lora.rank must be a whole number of at least 1, or null to train all weights, got 2.0"),
        ({"rank": "high"}, "to train all weights, got 'high'"),
        ({"rank": True}, "to train all weights, got True"),
        ({"rank": 2, "alpha": 0}, "model.lora.alpha must be a number above 0, got 0"),
        ({"rank": 2, "alpha": "big"}, "model.lora.alpha must be a number above 0, got 'big'"),
        ({"rank": 2, "dropout": 0.1}, "model.lora.dropout must be 0, got 0.1: with dropout π_θ and π_old differ"),
        ({"rank": 2, "targets": ["q_proj", "qproj"]}, "some of [down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj"),
        ({"rank": 2, "targets": "qproj"}, "model.lora.targets must be all-linear or some of"),
        ({"rank": 2, "targets": ["lm_head"]}, "got ['lm_head']"),
        ({"rank": 2, "targets": []}, "got []"),
        ({"rank": 2, "targets": None}, "got None"),
        ({"rank": None, "rnak": 2}, "there is no key model.lora.rnak; there are: rank, alpha, dropout, targets, seed"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_key(base, lora, message):
    with pytest.raises(ValueError) as error:
        load_policy(base(), lora=lora)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_only_an_adapter_needs_peft(base, monkeypatch):
    path = base()
    monkeypatch.setitem(sys.modules, "peft", None)
    policy = load_policy(path)
    assert merged(policy) is policy
    assert not has_adapter(policy)
    with pytest.raises(ValueError, match=r"model.lora.rank=3 needs peft .*pip install 'hapo_lit\[lora\]'") as error:
        adapted(path)
    assert error.value.__cause__ is None  # the line that is shown is the root of the chain
    assert "lora = [" in (Path(__file__).parents[2] / "pyproject.toml").read_text()
