"""Gates: is the policy failing on this prompt, so that a teacher may help?

Gates are plain objects, neither modules (DDP would overwrite their counts with rank 0's) nor dataclasses (a
checkpoint would be restored into a copy).  They learn from on-policy counts only, gathered over ranks, so that every
rank remembers the same; injected teacher rows are never evidence of the policy's skill.
"""

from hapo_lit.gates.beta import BetaGate
from hapo_lit.gates.memory import Memory
from hapo_lit.gates.rules import Belief, CredibleBound, PosteriorMean, Rule, ThompsonSample
from hapo_lit.gates.simple import AlwaysGate, FailureGate, Memoryless, NeverGate, ScheduledGate, decision

__all__ = [
    "AlwaysGate",
    "Belief",
    "BetaGate",
    "CredibleBound",
    "FailureGate",
    "Memory",
    "Memoryless",
    "NeverGate",
    "PosteriorMean",
    "Rule",
    "ScheduledGate",
    "ThompsonSample",
    "decision",
]
