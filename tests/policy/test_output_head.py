"""One autograd function for the head: values and gradients of the plain way, and little memory."""

from __future__ import annotations

import pytest
import torch

from hapo_lit.policy import output_head
from hapo_lit.policy.memory_tracker import MemoryTracker
from hapo_lit.policy.output_head import Head, Tile, tile_of, tiles_as_on

COUNT, HIDDEN, VOCABULARY = 7, 5, 11
WHOLE = Tile(3, VOCABULARY, True)


def made(bias, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    shapes = [(COUNT, HIDDEN), (VOCABULARY, HIDDEN), *([(VOCABULARY,)] if bias else [])]
    parts = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return parts, torch.randint(0, VOCABULARY - 2, (COUNT,), generator=generator)


def plain(parts, target, unreadable, temperature):
    """The whole log-softmax."""
    logits = torch.nn.functional.linear(*parts) / temperature
    if unreadable is not None:
        logits = logits.index_fill(-1, unreadable, -torch.inf)
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0)).sum(-1)
    return logprobs.gather(1, target[:, None])[:, 0], entropy


def ours(parts, target, unreadable, temperature, entropy_gradient, tile=WHOLE):
    head = Head(parts[1], parts[2] if len(parts) > 2 else None)
    return head.logprobs(parts[0], target, unreadable, temperature, entropy_gradient, tile)


@pytest.mark.parametrize("unreadable", [None, torch.tensor([4, 10])])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tile", [WHOLE, Tile(3, VOCABULARY, False), Tile(4, 3, False)])
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_values_and_gradients_are_those_of_the_whole_log_softmax(unreadable, bias, tile, entropy_gradient):
    parts, target = made(bias)
    target[target == 4] = 5
    slopes = torch.rand(2, COUNT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes *= 1e3  # which the least number times would be infinite
    found = []
    for values in (ours(parts, target, unreadable, 0.7, entropy_gradient, tile), plain(parts, target, unreadable, 0.7)):
        loss = (slopes[0] * values[0]).sum() + (slopes[1] * values[1]).sum() * entropy_gradient
        found.append([*values, *torch.autograd.grad(loss, parts)])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, atol=1e-10, rtol=1e-12)
    assert found[0][1].requires_grad == entropy_gradient


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_gradients_are_those_of_finite_differences(entropy_gradient):
    parts, target = made(bias=True)

    def values(*parts):
        return ours(parts, target, torch.tensor([9]), 1.3, entropy_gradient, Tile(4, 3, False))[: 1 + entropy_gradient]

    assert torch.autograd.gradcheck(values, parts)


def test_what_has_no_gradient_gets_none_and_a_pass_can_be_repeated():
    parts, target = made(bias=True)
    parts[1].requires_grad_(False)  # as under an adapter
    logprobs, _ = ours(parts, target, None, 1.0, False)
    first = torch.autograd.grad(logprobs.sum(), [parts[0], parts[2]], retain_graph=True)
    second = torch.autograd.grad(logprobs.sum(), [parts[0], parts[2]])
    assert all(map(torch.equal, first, second))
    with torch.no_grad():
        assert torch.equal(ours(parts, target, None, 1.0, False)[0], logprobs)


def test_float32_gradients_are_right_to_a_millionth():
    parts, target = made(bias=False, dtype=torch.float32)
    exact = [part.detach().double().requires_grad_() for part in parts]
    for tile in (Tile(3, 4, False), Tile(100, VOCABULARY, True)):
        there = torch.autograd.grad(plain(exact, target, None, 1.0)[0].sum(), exact)
        here = torch.autograd.grad(ours(parts, target, None, 1.0, False, tile)[0].sum(), parts)
        for one, other in zip(here, there, strict=True):
            torch.testing.assert_close(one.double(), other, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_no_more_than_two_tiles_of_logits_are_ever_held(entropy_gradient):
    vocabulary, count, tile = 4000, 200, Tile(40, 400, False)
    hidden, weight = torch.zeros(count, 2, requires_grad=True), torch.zeros(vocabulary, 2, requires_grad=True)
    targets = torch.zeros(count, dtype=torch.int64)
    with MemoryTracker([weight], [hidden]) as tracker:
        values = Head(weight, None).logprobs(hidden, targets, None, 1.0, entropy_gradient, tile)
        sum(value.sum() for value in values).backward()
    tiles = 2 * 4 * tile.rows * tile.columns
    assert 0 < tracker.peak.total() < tiles + 4 * (2 * vocabulary + 25 * count)  # gradients and sums of rows


def test_exponentials_are_kept_where_they_are_few(monkeypatch):
    parts, target = made(bias=False)
    products = []
    monkeypatch.setattr(torch, "mm", lambda *args, mm=torch.mm, **settings: products.append(1) or mm(*args, **settings))
    for kept, forward, backward in ((COUNT * VOCABULARY, 3, 0), (COUNT * VOCABULARY - 1, 3, 3)):
        monkeypatch.setattr(output_head, "KEPT_LOGITS", kept)
        logprobs, _ = ours(parts, target, None, 1.0, False)
        assert len(products) == forward
        logprobs.sum().backward()
        assert len(products) == forward + backward
        products.clear()


def test_tiles_have_the_size_of_their_device():
    assert tile_of(512, "cpu") == (1024, 512, True)
    assert tile_of(151_665, "cpu") == (256, 2048, False)
    assert tile_of(151_665, "cuda") == (110, 151_665, True)
    assert tile_of(512, "cpu", logits=1) == (1, 1, False)
    with tiles_as_on("cuda", 3):
        assert tile_of(151_665, "cpu") == (330, 151_665, True)
