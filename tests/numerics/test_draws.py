import numpy as np
from scipy import stats

from hapo_lit.numerics.draws import uniform


def test_draws_are_uniform_over_keys_counters_and_seeds():
    keys = np.arange(50_000)
    for sample in (
        uniform("test", 0, keys, 0),
        uniform("test", 7, keys * 2**40, 3),
        np.array([uniform("test", 0, keys[:1], counter)[0] for counter in range(5000)]),
        np.array([uniform("test", seed, keys[:1], 0)[0] for seed in range(5000)]),
    ):
        assert ((sample >= 0) & (sample < 1)).all()
        assert stats.kstest(sample, "uniform").pvalue > 1e-3


def test_neighbouring_keys_counters_and_seeds_are_unrelated():
    keys = np.arange(50_000)
    here = uniform("test", 0, keys, 0)
    for there in (
        uniform("other", 0, keys, 0),
        uniform("test", 0, keys + 1, 0),
        uniform("test", 0, keys, 1),
        uniform("test", 1, keys, 0),
    ):
        assert abs(np.corrcoef(here, there)[0, 1]) < 5 / np.sqrt(len(keys))


def test_a_draw_depends_on_its_own_key_alone():
    keys = np.array([5, -3, 2**62])
    assert uniform("test", 1, keys[::-1], 4)[::-1].tolist() == uniform("test", 1, keys, 4).tolist()
    assert uniform("test", 1, keys[1:2], 4)[0] == uniform("test", 1, keys, 4)[1]
    # the numbers are part of what a seed means: they must not change between releases
    assert uniform("test", 0, np.array([0, 1]), 0).tolist() == [0.36051238895572846, 0.24600037422692256]
