"""The output head, forward and backward: log-probabilities and entropies of tokens, ours and a plain log-softmax."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.measuring import seconds
from benchmarks.processes_apart import Numbers
from hapo_lit.policy.output_head import Head

TOKENS, VOCABULARY, HIDDEN = 1_024, 151_665, 64
Pass = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Hidden states, weight and targets -> log-probabilities, with gradients, and entropies."""


def ours(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What an update calls."""
    return Head(weight, None).logprobs(hidden, target)


def plain(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """All logits at once."""
    logprobs = (hidden @ weight.T).log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, target[:, None])[:, 0], entropy


PASSES: dict[str, Pass] = {"ours": ours, "plain": plain}


def time(way: str, quick: bool) -> Numbers:
    """CPU and wall seconds of a forward and backward pass."""
    once = passing(way, quick)
    once()
    found = [seconds(once) for _ in range(1 if quick else 3)]
    return {name: median(numbers[name] for numbers in found) for name in found[0]}


def memory(way: str, quick: bool) -> Numbers:
    """``held``: by how much resident memory grows in a pass, in GB, beside weights and their gradients.

    The process must give freed memory back at once: ``processes_apart.GIVES_BACK``.
    """
    once = passing(way, quick)
    once()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    once()
    return {"held": (resident("VmHWM") - before) / 1e9}


def passing(way: str, quick: bool) -> Callable[[], None]:
    """A forward and backward pass on random numbers, which gives the same as the plain one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens, vocabulary = (64, 1_000) if quick else (TOKENS, VOCABULARY)
    hidden, weight = torch.randn(tokens, HIDDEN, requires_grad=True), torch.randn(vocabulary, HIDDEN) / 8
    target = torch.randint(vocabulary, (tokens,))
    weight.requires_grad_()
    check(hidden[:8].detach(), weight.detach(), target[:8])

    def once() -> None:
        logprobs, entropy = PASSES[way](hidden, weight, target)
        logprobs.mean().backward()
        assert entropy.isfinite().all()

    return once


def check(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    """Both give the same numbers."""
    for found, expected in zip(ours(hidden, weight, target), plain(hidden, weight, target), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def resident(name: str) -> int:
    """Bytes, as the kernel states them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
