"""What a run says at its start of settings that do less than they say, or that cost it its reproducibility."""

from __future__ import annotations

import torch

from hapo_lit.losses import Surrogate
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rollout.sampling import Sampling
from hapo_lit.teacher import ClippedRatio
from hapo_lit.training.engines import engines_of
from hapo_lit.training.module import HapoModule
from hapo_lit.training.phases import Phase


def update_notices(module: HapoModule, prompts: int) -> list[str]:
    """A line for each such setting.

    Args:
        module: has the settings.
        prompts: of a step, over all processes.
    """
    lines = []
    if module.minibatches > prompts:
        what = "1 prompt" if prompts == 1 else f"{prompts} prompts"
        lines.append(
            f"module.minibatches={module.minibatches}: a batch has {what}, so it makes {prompts}, of one prompt each"
        )
    if module.updates_per_batch * min(module.minibatches, prompts) == 1:
        clips = [name for phase in module.phases for name in _clips(phase)]
        lines += [
            f"{name} never acts: with one update on a whole batch every ratio is exactly 1; several updates are "
            f"module.minibatches=2 (on parts of its prompts) or module.updates_per_batch=2 (on all of them)"
            for name in dict.fromkeys(clips)
        ]
    engines = list(engines_of(module))
    if torch.are_deterministic_algorithms_enabled() and not all(isinstance(engine, HFEngine) for engine in engines):
        lines.append(
            "deterministic=true reaches the policy's passes and updates, and no other engine than rollout=hf: what "
            "vLLM samples may depend on what else it computes at the same time"
        )
    if any(isinstance(engine, Sampling) and not engine.seeded for engine in engines):
        lines.append(
            "rollout.seeded=false: vLLM draws all responses from one generator: neither this run nor its evaluations "
            "can be repeated to the bit, and it goes on with other draws when it resumes"
        )
    return lines


def _clips(phase: Phase) -> list[str]:
    """The settings of a phase that bound ratios of the policy to itself before the update."""
    loss = phase.loss
    clips = isinstance(loss, Surrogate) and loss.clips and phase.algorithm.rollouts_per_prompt > 0
    return ["loss.clip"] * clips + ["teacher=clipped"] * isinstance(loss.teacher, ClippedRatio)
