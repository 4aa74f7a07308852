"""Gates: is the policy failing on this prompt, so that a teacher may help?

Gates are plain objects, neither modules (DDP would overwrite their counts with rank 0's) nor dataclasses (a
checkpoint would be restored into a copy).  They learn from on-policy counts only, gathered over ranks, so that every
rank remembers the same.  Injected teacher rows are never counted.
"""

from hapo_lit.gates.beta import BetaGate
from hapo_lit.gates.memory import Memory
from hapo_lit.gates.rules import CredibleBound, Posterior, PosteriorMean, Rule, ThompsonSample
from hapo_lit.gates.simple import AlwaysGate, FailureGate, Memoryless, NeverGate, ScheduledGate, decision

__all__ = [
    "AlwaysGate",
    "BetaGate",
    "CredibleBound",
    "FailureGate",
    "Memory",
    "Memoryless",
    "NeverGate",
    "Posterior",
    "PosteriorMean",
    "Rule",
    "ScheduledGate",
    "ThompsonSample",
    "decision",
]
