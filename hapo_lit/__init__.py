"""hapo_lit: Hindsight-Anchored Policy Optimization, structured by Lightning and configured by Hydra."""

__version__ = "0.1.0"
