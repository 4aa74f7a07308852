"""What a run says of its learning rate, and which rates it warns of."""

import pytest
import torch
from support.training import hapo, module, phase

from hapo_lit.policy.adapters import with_adapter
from hapo_lit.schedules import Constant, Linear, WarmupLinear
from hapo_lit.training.device import chosen_accelerator
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.training.rates import learning_rates, rate_warning, training_line

LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "seed": 0}


def phases(*rates):
    parts = [phase(hapo()) for _ in rates]
    budgets = [10] * (len(rates) - 1) + [None]
    made = [
        Phase(part.algorithm, part.loss, rate, budget) for part, rate, budget in zip(parts, rates, budgets, strict=True)
    ]
    return Phases(10 * len(rates), {str(index): part for index, part in enumerate(made)})


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([Constant(1e-6)], "1e-06"),
        ([Linear(1e-3, 0.0)], "0.001 to 0.0001"),
        ([WarmupLinear(1e-6, warmup=0.5)], "0 to 1e-06 to 2e-07"),
        ([Constant(1e-3), Linear(1e-6, 0.0)], "0.001, then 1e-06 to 1e-07"),
    ],
)
def test_a_learning_rate_is_said_by_phase(rates, said):
    assert learning_rates(phases(*rates)) == said


def test_the_line_counts_what_is_trained(policy, tokenizer):
    built = module(policy, tokenizer, phase(hapo()))
    every = policy.num_parameters()
    assert training_line(built, "cuda", 8).startswith(f"training: {every:,} parameters on cuda, 8 processes; learning")
    built.policy = with_adapter(policy, LORA)
    assert f"of {built.policy.num_parameters():,} parameters on cpu, 1 process;" in training_line(built, "cpu", 1)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("sizes", "full", "low_rank"),
    [({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 2}, 5e-5, 2e-3), ({}, None, None)],
    ids=["130 million", "16 thousand"],
)
def test_a_rate_far_above_the_usual_for_the_size_is_warned_of(make_policy, tokenizer, sizes, full, low_rank, adapter):
    with torch.device("meta"):
        policy = make_policy(**sizes)
        policy = with_adapter(policy, LORA) if adapter else policy
    built = module(policy, tokenizer, phase(hapo()))
    usual = low_rank if adapter else full
    built.phases = phases(Constant(1.0 if usual is None else usual))
    assert rate_warning(built) is None
    if usual is not None:
        built.phases = phases(Linear(1.1 * usual, 0.0))
        said = rate_warning(built)
        assert said.startswith(f"warning: a learning rate of {1.1 * usual:g} is far above what ")
        assert f"{policy.num_parameters():,} parameters" in said
        assert ("an adapter of" in said) is adapter


def test_auto_is_cuda_or_the_cpu_and_never_apples_gpu():
    assert chosen_accelerator("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen_accelerator("gpu") == "gpu"
