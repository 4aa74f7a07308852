"""What a run says at its start of settings of its updates that do less than they say."""

from __future__ import annotations

from hapo_lit.training.module import HapoModule


def update_notices(module: HapoModule, prompts: int) -> list[str]:
    """A line for each such setting.

    Args:
        module: has the settings.
        prompts: of a step, over all processes.
    """
    if module.minibatches <= prompts:
        return []
    what = "1 prompt" if prompts == 1 else f"{prompts} prompts"
    return [f"module.minibatches={module.minibatches}: a batch has {what}, so it makes {prompts}, of one prompt each"]
