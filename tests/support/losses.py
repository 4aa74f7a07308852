"""A loss applied to rows of hand-made probabilities."""

from __future__ import annotations

import torch


def logprobs_of(probabilities):
    """``[N, 1]`` log-probabilities, with a gradient."""
    return torch.tensor(probabilities, dtype=torch.float64).log()[:, None].requires_grad_()


def apply(loss, logprobs, rows, entropy=None):
    """What a loss returns, where entropies do not matter unless they are given."""
    return loss(logprobs, torch.zeros_like(logprobs) if entropy is None else entropy, rows)


def value_and_gradient(loss, logprobs, rows):
    """The loss of some rows, and its gradient in their log-probabilities."""
    output = apply(loss, logprobs, rows)
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    return float(output.loss.detach()), gradient
