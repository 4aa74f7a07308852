"""What hapo_lit claims of its speed and memory, each claim measured beside its peer: ``python -m benchmarks``."""
