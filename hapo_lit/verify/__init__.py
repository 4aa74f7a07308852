"""Verification: does a response end in the right answer?"""

from hapo_lit.verify.checking import Checker, Verdict, verify
from hapo_lit.verify.conventions import Conventions

__all__ = ["Checker", "Conventions", "Verdict", "verify"]
