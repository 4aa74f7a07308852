"""Teacher terms: what a token the teacher wrote adds to the objective.

The policy did not sample these tokens, so there is no honest importance ratio for them; each class is one answer to
that.  ``π`` is the current policy's probability of the token, ``Â`` the row's advantage in its group.
"""

from __future__ import annotations

from torch import Tensor


class UnitRatio:
    """``Â · π/sg(π)``: the teacher's row is treated as if the policy had sampled it.  Gradient ``Â ∇log π``."""

    needs_advantage = True

    def __call__(self, logprobs: Tensor, advantages: Tensor, confidence: Tensor) -> Tensor:
        return advantages * (logprobs - logprobs.detach()).exp()


class ShapedRatio:
    """``Â · π/(π + s)``: LUFFY's policy shaping (arXiv 2504.14945), which HAPO's experiments use in its Eq. 9.

    The weight on ``Â ∇log π`` is ``s·π/(π+s)²``: 1/4 at its peak ``π = s``, about ``π/s`` for tokens the policy finds
    unlikely.  A policy that gives the teacher's tokens tiny probabilities therefore starts slowly.
    """

    needs_advantage = True

    def __init__(self, shape: float = 0.1) -> None:
        if shape <= 0:
            raise ValueError(f"shape must be positive, got {shape}")
        self.shape = shape

    def __call__(self, logprobs: Tensor, advantages: Tensor, confidence: Tensor) -> Tensor:
        probability = logprobs.exp()
        return advantages * probability / (probability + self.shape)


class NegativeLogLikelihood:
    """``coefficient · log π``: supervised learning on the teacher's tokens, whatever their advantage."""

    needs_advantage = False

    def __init__(self, coefficient: float = 1.0) -> None:
        self.coefficient = coefficient

    def __call__(self, logprobs: Tensor, advantages: Tensor, confidence: Tensor) -> Tensor:
        return self.coefficient * logprobs
