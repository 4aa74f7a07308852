"""What is loaded: the tokenizer as it was, policies without dropout, models that weights fit; and what is refused."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_group
from support.engines import engine, prompt_batch
from transformers import AutoTokenizer

from hapo_lit.policy.loading import load_policy, load_tokenizer, policy_like
from hapo_lit.policy.scoring import token_logprobs


def test_a_saved_tokenizer_reads_text_as_before(tmp_path, policy, tokenizer):
    policy.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = "Compute 7547-2293.\n7-3-0=04;\\boxed{5254}"
    assert load_tokenizer(str(tmp_path))(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert load_tokenizer(str(tmp_path)).decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
    loaded = load_policy(str(tmp_path))
    assert loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), policy.parameters(), strict=True))


def test_a_general_tokenizer_beside_a_qwen2_is_not_read_by_qwen2s_rules(tmp_path, policy):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<eos>": 0, "Compute": 1, "7": 2}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    policy.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path))("Compute 7")["input_ids"] == [1, 2]
    # the trap this guards against; when it is gone, load_tokenizer may become AutoTokenizer again
    assert AutoTokenizer.from_pretrained(tmp_path)("Compute 7")["input_ids"] != [1, 2]


def test_models_that_change_their_logits_after_the_head_are_refused(tmp_path, make_policy):
    capped = make_policy("gemma2", head_dim=16, final_logit_softcapping=1.0)
    capped.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gemma2 models change their logits after the output head"):
        load_policy(str(tmp_path))


def test_a_missing_folder_is_named():
    with pytest.raises(FileNotFoundError, match=r"'/no/such/folder' does not exist; set model.path"):
        load_policy("/no/such/folder")


def test_a_new_policy_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(make_policy):
    state = torch.get_rng_state()
    one, same, other = make_policy(seed=1), make_policy(seed=1), make_policy(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


@pytest.mark.parametrize(
    ("architecture", "rates"),
    [
        ("qwen2", {"attention_dropout": 0.5}),
        ("llama", {"attention_dropout": 0.5}),
        ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
    ],
)
def test_dropout_is_off_whatever_the_configuration_says(tmp_path, make_policy, architecture, rates):
    made = make_policy(architecture, **rates).train()
    for name, rate in rates.items():
        assert getattr(made.config, name) == 0
        setattr(made.config, name, rate)
    made.save_pretrained(tmp_path)
    text = make_group([[0, 1], [1, 0]]).text()
    for policy in (made, load_policy(str(tmp_path))):
        assert policy.training
        assert torch.equal(token_logprobs(policy, text)[0], token_logprobs(policy, text)[0])


# -- gradient checkpointing


def passes_and_gradients(policy, text):
    """How often the first layer ran for one gradient of the log-probabilities, and that gradient by parameter."""
    runs = []
    hook = policy.get_decoder().layers[0].register_forward_pre_hook(lambda *_: runs.append(1))
    policy.zero_grad()
    logprobs = token_logprobs(policy, text, 0.7)[0]
    (logprobs * torch.linspace(-1, 1, logprobs.numel()).reshape(logprobs.shape)).sum().backward()
    hook.remove()
    return len(runs), {name: weight.grad for name, weight in policy.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize("lora", [None, {"rank": 3}], ids=["all weights", "adapter"])
def test_checkpointing_computes_twice_and_changes_no_gradient(tmp_path, make_policy, architecture, lora):
    make_policy(architecture).save_pretrained(tmp_path)
    text = make_group([[0, 1, 0], [1, 0, 0]]).text()
    plain = load_policy(str(tmp_path), lora=lora)
    twice = load_policy(str(tmp_path), lora=lora, gradient_checkpointing=True)
    for policy in (plain, twice):
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.1
    once, expected = passes_and_gradients(plain, text)
    runs, gradients = passes_and_gradients(twice, text)
    assert (once, runs) == (1, 2)
    assert gradients.keys() == expected.keys()
    assert all(gradient.abs().max() > 1e-4 for name, gradient in expected.items() if "k_proj.bias" not in name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=0, msg=name)
    assert not twice.get_input_embeddings()._forward_hooks  # without reentrance nothing has to be forced


def test_checkpointing_does_not_reach_the_sampler(tmp_path, make_policy):
    make_policy().save_pretrained(tmp_path)
    groups = []
    for checkpointing in (False, True):
        policy = load_policy(str(tmp_path), gradient_checkpointing=checkpointing)
        groups.append(engine(policy).generate(prompt_batch(4), 3, step=0))
        assert policy.training
    assert torch.equal(groups[0].tokens, groups[1].tokens)
    assert torch.equal(groups[0].behaviour_logprobs, groups[1].behaviour_logprobs)


# -- a model for weights that come later


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_policys_weights_fit_a_model_made_from_its_configuration_alone(tmp_path, make_policy, tied, dtype):
    make_policy(tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    policy = load_policy(str(tmp_path / "base"), dtype)
    policy.config.attention_dropout = 0.5  # which the model below must not heed
    policy.generation_config.eos_token_id = [2, 7]
    policy.config.save_pretrained(tmp_path / "bare")
    policy.generation_config.save_pretrained(tmp_path / "bare")
    state = torch.get_rng_state()
    bare = policy_like(str(tmp_path / "bare"))
    assert torch.equal(torch.get_rng_state(), state)
    bare.load_state_dict(policy.state_dict())
    text = make_group([[0, 1], [1, 0]]).text()
    assert torch.equal(token_logprobs(bare, text)[0], token_logprobs(policy, text)[0])
    assert {parameter.dtype for parameter in bare.parameters()} == {getattr(torch, dtype)}
    assert (bare.lm_head.weight is bare.model.embed_tokens.weight) == tied
    assert bare.generation_config.eos_token_id == [2, 7]
    assert bare.config.attention_dropout == 0
    with pytest.raises(FileNotFoundError, match=r"set model.path"):
        policy_like(str(tmp_path / "gone"))
