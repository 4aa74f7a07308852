"""The training run: module, phases, metrics, callbacks, run state."""
