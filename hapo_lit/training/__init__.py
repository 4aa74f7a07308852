"""The training run: module and update, phases, metrics, callbacks, evaluation, checkpoints."""
