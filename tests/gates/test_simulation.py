import numpy as np
import pytest

from hapo_lit import injection_law as law
from hapo_lit.analysis import injection_by_pass_rate
from hapo_lit.gates import BetaGate, ThompsonSample
from hapo_lit.gates.simulation import simulate
from hapo_lit.schedules import Linear


def test_a_stuck_prompt_is_helped_for_ever_at_a_fixed_threshold_and_until_the_cut_off_at_an_annealed_one():
    stuck = np.full((200, 500), 0.1)
    fixed = simulate(BetaGate(0.4), stuck, 4).groupby("step")["open"].mean()
    expected = law.mean_rule(0.1, 0.4, 4)  # S ≤ ⌈0.4 · 6 − 1⌉ − 1 = 1: 0.9⁴ + 4 · 0.1 · 0.9³ = 0.9477
    assert expected == pytest.approx(0.9477)
    assert fixed.tail(50).mean() == pytest.approx(expected, abs=0.01)
    annealed = simulate(BetaGate(Linear(0.4, 0.0), horizon=200), stuck, 4).groupby("step")["open"].mean()
    off = next(step for step in range(200) if 0.4 * (1 - step / 200) <= law.cut_off(4))
    assert (annealed.to_numpy()[off:] == 0).all()
    assert annealed.to_numpy()[off - 1] > 0.5


def test_its_groups_are_those_of_a_run():
    rates = np.tile(np.linspace(0, 1, 300), (40, 1))
    gate = BetaGate(0.6, ThompsonSample())
    groups = simulate(gate, rates, 4)
    assert len(groups) == 40 * 300
    assert (groups["confidence"] - (1 + groups["successes"]) / 6).abs().max() < 1e-6
    table = injection_by_pass_rate(groups, gate.open_probability)
    assert (table["observed"] - table["predicted"]).abs().max() < 0.05


def test_the_same_seed_gives_the_same_groups_and_another_one_others():
    rates = np.full((5, 20), 0.5)
    first, again, other = (simulate(BetaGate(0.4), rates, 4, seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)
    with pytest.raises(ValueError, match=r"\[visits, prompts\], got shape \(3,\)"):
        simulate(BetaGate(0.4), np.zeros(3), 4)
