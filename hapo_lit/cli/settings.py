"""The settings that a run keeps when it resumes from a checkpoint, and those that may change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

ENGINE_RESOURCES = tuple(
    "urls anywhere transfer exchange bucket_bytes timeout port gpu_memory_utilization sleep max_num_seqs look_every "
    "options".split()
)
"""Settings of rollout engines that say where they run, and with what."""
MAY_CHANGE = {
    *("resume", "allow_changes", "paths", "hydra", "trainer", "fabric", "accelerator", "devices", "threads"),
    *("eval_every", "save_every", "deterministic"),
    *(
        "save_minutes",
        "consistency_every",
        "callbacks",
        "logger",
        "evaluators",
        "model.path",
        *("data.path", "data.heldout_path", "data.evaluation_path"),  # their contents are compared
        "model.shape",
        "model.policy.strategy",
        "model.policy.compiled",
        "model.compile",
    ),
    *("data.workers", "precision", *(f"rollout.{name}" for name in ENGINE_RESOURCES)),
    *("model.gradient_checkpointing", "model.attention", "model.policy.attention", "verifier.workers"),
    *(
        f"module.{name}"
        for name in "micro_batch_size micro_batch_tokens balance_tokens padding_free max_skipped".split()
    ),
    "verifier.rewards.accuracy.workers",
}
"""Settings that change where a run computes, how fast and how often it reports, and nothing that it learns."""


def lasting_settings(config: DictConfig) -> dict[str, Any]:
    """``a.b: value`` for all settings that decide what a run learns; interpolations are not resolved."""

    def walk(node: Any, key: str) -> Iterator[tuple[str, Any]]:
        if key in MAY_CHANGE:
            return
        if isinstance(node, dict) and node:
            for name, value in node.items():
                yield from walk(value, f"{key}.{name}" if key else str(name))
        else:
            yield key, node

    return dict(walk(OmegaConf.to_container(config, resolve=False), ""))
