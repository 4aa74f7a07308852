"""What ends a run, or an update: numbers that are not finite, too little memory, settings that cannot train."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from support.training import STEPS, data, fit, hapo, module, phase, weights

from hapo_lit.errors import MemoryShortError, NotFiniteError
from hapo_lit.gates import AlwaysGate
from hapo_lit.losses import Surrogate
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.schedules import Linear
from hapo_lit.teacher import UnitRatio
from hapo_lit.training.out_of_memory import when_out_of_memory
from hapo_lit.training.phases import Phase


class Diverging(Surrogate):
    """A surrogate whose loss is no number at some calls; with ``only_gradient`` the loss itself still is one."""

    def __init__(self, *calls, only_gradient=False):
        super().__init__(UnitRatio())
        self.calls, self.only_gradient, self.seen = calls, only_gradient, 0

    def __call__(self, logprobs, entropy, rows):
        output = super().__call__(logprobs, entropy, rows)
        self.seen += 1
        if self.seen not in self.calls:
            return output
        zero = (logprobs - logprobs.detach()).sum()
        return output._replace(loss=output.loss + (zero.abs().sqrt() if self.only_gradient else zero + float("nan")))


def diverging(*calls, **settings):
    return Phase(hapo(AlwaysGate()), Diverging(*calls, **settings), Linear(1e-2, 1e-3))


@pytest.mark.parametrize("only_gradient", [False, True])
def test_an_update_that_is_not_finite_is_skipped_and_counted(make_policy, tokenizer, only_gradient):
    """Skipping the third of four steps leaves what the other three make; the batch is used up all the same."""
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            seen.append((pl_module.metrics["update/skipped"], weights(pl_module).clone()))

    built = module(make_policy(), tokenizer, diverging(3, only_gradient=only_gradient))
    trainer = fit(built, data(tokenizer), watch=Watch())
    assert [skipped for skipped, _ in seen] == [0, 0, 1, 0]
    assert torch.equal(seen[2][1], seen[1][1])
    assert not torch.equal(seen[3][1], seen[2][1])
    assert all(after.isfinite().all() for _, after in seen)
    assert {float(state["step"]) for state in trainer.optimizers[0].state.values()} == {STEPS - 1.0}
    assert built.skips.in_a_row == 0
    assert built.step == built.data.consumed == STEPS


def test_too_many_in_a_row_end_the_run_with_the_batch(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, diverging(1, 3, 4), max_skipped=1)
    with pytest.raises(NotFiniteError, match="in 2 updates in a row, up to step 4") as error:
        fit(built, data(tokenizer))
    assert error.value.experience is built.experience
    assert built.run_state()["skipped"] == 2
    fit(module(make_policy(), tokenizer, diverging(1, 3), max_skipped=1), data(tokenizer))  # never two in a row


class Greedy(HFEngine):
    """An engine that wants a petabyte."""

    def generate(self, prompts, group_size, step):
        torch.empty(2**50, dtype=torch.uint8)
        return super().generate(prompts, group_size, step)


def test_running_out_of_memory_names_the_setting_to_lower(make_policy, tokenizer):
    algorithm = hapo()
    algorithm.engine = Greedy(12)
    with pytest.raises(MemoryShortError, match="while sampling: lower prompts_per_step, group_size or"):
        fit(module(make_policy(), tokenizer, phase(algorithm)), data(tokenizer))

    class Hungry(Surrogate):
        def __call__(self, logprobs, entropy, rows):
            torch.empty(2**50, dtype=torch.uint8)
            return super().__call__(logprobs, entropy, rows)

    hungry = Phase(hapo(AlwaysGate()), Hungry(UnitRatio()), Linear(1e-2, 1e-3))
    with pytest.raises(MemoryShortError, match=r"while updating: lower module\.micro_batch_size"):
        fit(module(make_policy(), tokenizer, hungry), data(tokenizer))


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="something else"), when_out_of_memory("testing", lower="nothing"):
        raise RuntimeError("something else")


def test_greedy_training_is_refused(make_policy, tokenizer):
    with pytest.raises(ValueError, match="training needs samples"):
        module(make_policy(), tokenizer, phase(hapo()), temperature=0.0)
