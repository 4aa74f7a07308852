import numpy as np
import pytest
import torch
from scipy import stats
from support.engines import engine, prompt_batch, responses, take
from torch.utils._python_dispatch import TorchDispatchMode

from hapo_lit.device_memory import PLENTY, RolloutBatch
from hapo_lit.policy.output_head import head_of
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.protocols import RolloutEngine
from hapo_lit.rollout import hf
from hapo_lit.rollout.grouped_attention import decoding_attention
from hapo_lit.rollout.hf import HFEngine


def test_it_implements_the_protocol(policy):
    assert isinstance(engine(policy), RolloutEngine)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_greedy_equals_transformers_generate(make_policy, architecture):
    policy, prompts = make_policy(architecture), prompt_batch(16)
    group = engine(policy, temperature=0.0).generate(prompts, 1, 0)
    plain = policy.generate(
        input_ids=prompts.tokens, attention_mask=prompts.mask.long(), max_new_tokens=20, do_sample=False
    )[:, prompts.tokens.shape[1] :]
    for row, ours in enumerate(responses(group)):
        assert ours[0] == plain[row, : len(ours[0])].tolist()
        assert ours[0][-1] == 2 or len(ours[0]) == 20
    assert group.finished[:, 0].tolist() == [ours[0][-1] == 2 for ours in responses(group)]
    assert len({len(ours[0]) for ours in responses(group)}) > 1  # some ended early, so rows did leave the batch


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_reported_logprobs_are_the_policys_own(make_policy, architecture, temperature):
    policy = make_policy(architecture)
    group = engine(policy, temperature=temperature).generate(prompt_batch(), 6, 3)
    with torch.no_grad():
        logprobs, _ = token_logprobs(policy, group.text(), temperature)
    assert (logprobs - group.behaviour_logprobs.flatten(0, 1)).abs().max() < 1e-4
    assert not group.finished.all()
    assert group.finished.any()


def test_a_draw_depends_on_seed_prompt_sample_and_step_only(policy):
    prompts = prompt_batch(5)
    whole = responses(engine(policy).generate(prompts, 4, 7))
    order = [3, 0, 4, 1, 2]
    shuffled = responses(engine(policy).generate(take(prompts, order), 4, 7))
    assert shuffled == [whole[i] for i in order]
    assert responses(engine(policy).generate(take(prompts, [2]), 2, 7)) == [whole[2][:2]]
    assert responses(engine(policy).generate(prompts, 4, 8)) != whole
    assert responses(engine(policy, seed=1).generate(prompts, 4, 7)) != whole


def test_generation_leaves_global_generators_and_mode_alone(policy):
    policy.train()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    engine(policy).generate(prompt_batch(), 2, 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert policy.training


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_frequencies_pass_a_chi_square_test(policy, temperature):
    prompts = take(prompt_batch(1), [0])
    group = engine(policy, max_new_tokens=1, temperature=temperature).generate(prompts, 4000, 0)
    observed = torch.bincount(group.tokens.flatten(), minlength=24).numpy()
    with torch.no_grad():
        logits = policy(input_ids=prompts.tokens, attention_mask=prompts.mask.long()).logits[0, -1].double()
    expected = 4000 * (logits / temperature).softmax(-1).numpy()
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    assert len(expected[keep]) > 3
    assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


def test_tokens_of_no_mass_are_never_drawn():
    made = HFEngine(1)
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    drawn, logprob = made._draw(logits, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64))
    assert drawn.tolist() == [0, 2, 2]
    assert logprob.exp().tolist() == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("sequences", [1, 3, 4, 7, 100])
def test_what_is_drawn_does_not_depend_on_how_many_are_decoded_at_once(policy, sequences):
    """Also where a prompt's group is cut in two; log-probabilities are rounded as the batch's size has it."""
    whole = engine(policy, seed=5).generate(prompt_batch(5), 4, 2)
    parts = engine(policy, seed=5, max_num_seqs=sequences).generate(prompt_batch(5), 4, 2)
    for name in ("tokens", "mask", "finished"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    assert (parts.behaviour_logprobs - whole.behaviour_logprobs)[whole.mask].abs().max() < 1e-5


@pytest.mark.parametrize("every", [7, 100])
def test_what_is_drawn_does_not_depend_on_how_often_the_host_looks(policy, every):
    """Log-probabilities neither, where no row has left the batch; else they are rounded as the batch's size has it."""
    often, seldom = (engine(policy, seed=5, look_every=look).generate(prompt_batch(5), 4, 2) for look in (1, every))
    assert often.finished.any()
    for name in ("tokens", "mask", "finished"):
        assert torch.equal(getattr(seldom, name), getattr(often, name))
    gap = (seldom.behaviour_logprobs - often.behaviour_logprobs).abs()
    assert gap.max() < 1e-5
    none_left = often.mask.sum((0, 1)) > 0.8 * 20  # before the first rows leave, at a fifth of the batch
    assert none_left.any()
    assert gap[..., none_left].max() == 0
    default = engine(policy, seed=5).generate(prompt_batch(5), 4, 2)
    assert torch.equal(default.behaviour_logprobs, often.behaviour_logprobs)  # on a CPU


class HostWaits(TorchDispatchMode):
    """Counts what lets the host wait for a device: reading a number, and shapes that depend on contents."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = args[1] if "index" in func.name() and len(args) > 1 and isinstance(args[1], list) else []
        by_mask = any(mask is not None and mask.dtype == torch.bool for mask in masks)
        self.count += by_mask or func.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_host_waits_for_a_device_only_when_it_looks(policy, temperature):
    def waits(tokens, every):
        made = engine(policy, temperature=temperature, max_new_tokens=tokens, look_every=every, stop_ids=[99])
        with HostWaits() as seen:
            made.generate(prompt_batch(2), 1, 0)
        return seen.count

    assert waits(8, 100) == waits(2, 100)
    assert waits(8, 3) == waits(2, 100) + 2
    assert waits(8, 1) == waits(2, 100) + 7


def test_stop_ids_end_a_response_and_belong_to_it(policy):
    group = engine(policy, stop_ids=[5, 6]).generate(prompt_batch(), 8, 0)
    for sample in (sample for prompt in responses(group) for sample in prompt):
        assert not {5, 6} & set(sample[:-1])
    assert {
        s[-1] for p, f in zip(responses(group), group.finished, strict=True) for s, e in zip(p, f, strict=True) if e
    } <= {5, 6}


def test_it_follows_weights_that_change_in_place(policy):
    made, prompts = engine(policy, temperature=0.0), prompt_batch(8)
    before = responses(made.generate(prompts, 1, 0))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.5)
    after = made.generate(prompts, 1, 0)
    assert responses(after) != before
    assert torch.equal(after.tokens, engine(policy, temperature=0.0).generate(prompts, 1, 0).tokens)


def test_refusals(policy):
    with pytest.raises(RuntimeError, match="before sync"):
        HFEngine(4).generate(prompt_batch(), 2, 0)
    with pytest.raises(ValueError, match="at least 1"):
        HFEngine(0)
    with pytest.raises(ValueError, match=r"rollout.max_num_seqs must be at least 1 or null, got 0"):
        HFEngine(4, max_num_seqs=0)
    with pytest.raises(ValueError, match=r"rollout.look_every must be at least 1 or null, got 0"):
        HFEngine(4, look_every=0)
    with pytest.raises(ValueError, match="temperature must be a number and not negative"):
        HFEngine(4, temperature=-1)


def test_on_a_gpu_a_number_is_chosen_by_what_is_free_and_on_a_cpu_it_is_all(make_policy, monkeypatch, capsys):
    policy, free = make_policy().to("meta"), 10**9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * 10**9))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which knows no device called meta
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    made = engine(policy, max_prompt_tokens=100)
    with decoding_attention(policy, on_cpu=False):  # in which a run asks
        assert made._at_once(policy, 32, 4, 6) == 32  # all of a small model's
    need = made.memory(make_policy(), RolloutBatch(32, 100, 20, 4), PLENTY).total
    free, made = need, engine(policy, max_prompt_tokens=100)
    made.reserve_memory(lambda: need // 2)
    chosen = made._at_once(policy, 32, 4, 6)
    assert 1 < chosen < 0.5 * 32  # 0.45 of what all take is left
    free = 10**9
    assert made._at_once(policy, 32, 4, 6) == chosen  # once
    assert capsys.readouterr().out == f"chosen: rollout.max_num_seqs={chosen}, of 32 sequences, by what is free\n"
    assert made._at_once(policy, 32, 4, 101) == 32  # and again for longer prompts
    assert engine(policy, max_num_seqs=5)._at_once(policy, 32, 4, 6) == 5
    assert engine(make_policy())._at_once(make_policy(), 32, 4, 6) == 32


def test_a_head_that_is_not_float32_is_converted_once(policy, monkeypatch):
    """A float32 copy of it has gigabytes where the vocabulary is large."""
    made, heads = engine(policy.bfloat16()), []
    monkeypatch.setattr(hf, "head_of", lambda policy: heads.append(head_of(policy)) or heads[-1])
    made.generate(prompt_batch(2), 2, 0)
    assert len(heads) == 1
