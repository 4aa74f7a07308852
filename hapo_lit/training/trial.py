"""The parts of a run tried on a made-up group before it begins: what would fail, or learn nothing, after the first
evaluation is said at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.contracts import credited, injected
from hapo_lit.errors import PartError, one_line, part_name
from hapo_lit.protocols import ALONE, PolicyLoss
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import made, trained_parameters, unwrapped
from hapo_lit.types import Experience, GateDecision, PromptBatch, RolloutGroup
from hapo_lit.weighting import weights_of


def try_out(module: HapoModule) -> None:
    """Try a run's parts and its optimiser; asking changes nothing in them.

    Raises:
        PartError: one of them fails, gives what is not finite, or all together give no gradient.
    """
    for phase, steps in module.phases.with_steps():
        algorithm = phase.algorithm
        if isinstance(algorithm, Hapo | Supervised):
            tried = {steps[0], steps[len(steps) // 2], steps[-1]}
            found = [_gradient(algorithm, phase.loss, step) for step in sorted(tried)]
            if not any(found):
                raise PartError(
                    "a group with a right answer, a wrong one and a teacher gives no gradient at all, so that nothing "
                    "would be learnt: look at advantage, weighting, loss and teacher"
                )
    _try_optimizer(module)


# -- the parts ----------------------------------------------------------------------------------------------------


def _gradient(algorithm: Hapo | Supervised, loss: PolicyLoss, step: int) -> bool:
    """Whether a made-up group has a gradient; True if that cannot be told, as a part is somebody else's."""
    parts: dict[str, Any] = {"loss": loss, "weighting": algorithm.weighting, "loss.teacher": loss.teacher}
    if isinstance(algorithm, Hapo):
        parts |= {"injector": algorithm.injector, "advantage": algorithm.advantage}
        needed = parts | {"gate": algorithm.gate, "rollout": algorithm.engine, "verifier": algorithm.verifier}
        if absent := [key for key, part in needed.items() if part is None]:
            raise PartError(f"{absent[0]}: there is none, or its _target_ gives nothing")
    try:
        own = copy.deepcopy(parts)  # which may remember what they were called for
    except Exception:
        return True
    is_ours = all(_is_ours(part) for part in parts.values())
    with _named(loss, "loss", is_ours) as known:
        rows = _experience(algorithm, own, step).rows()
        rows = rows.select(own["loss"].contributes(rows))
        logprobs = torch.full(rows.text.mask.shape, -1.0, requires_grad=True)
        entropy = torch.full(rows.text.mask.shape, 1.0, requires_grad=True)
        if own["loss"].needs_reference:
            rows = rows._replace(reference_logprobs=torch.full_like(logprobs, -1.5).detach())
        with torch.enable_grad():
            value = own["loss"](logprobs, entropy, rows).loss
            if value.requires_grad:
                value.backward()
        gradients = [tensor.grad for tensor in (logprobs, entropy) if tensor.grad is not None]
        if not all(bool(tensor.isfinite().all()) for tensor in (value, *gradients)):
            raise PartError(
                f"loss: {part_name(loss)} is {float(value.detach()):g} on a made-up group, or its gradient is not "
                f"finite: look at advantage, weighting, loss and teacher"
            )
        known.append(any(bool(gradient.any()) for gradient in gradients))
    return known[0] if known and is_ours else True


def _experience(algorithm: Hapo | Supervised, parts: dict[str, Any], step: int) -> Experience:
    prompts = _prompts()
    if isinstance(algorithm, Supervised):
        return Supervised(parts["weighting"]).collect(prompts, step, _no_text, ALONE)
    rollouts = _rollouts(prompts, algorithm.rollouts_per_prompt)
    opened = torch.ones(len(prompts.answers), dtype=torch.bool)
    group = injected(parts["injector"], parts["injector"](rollouts, prompts, opened, step), prompts, opened)
    return Experience(
        group=group,
        advantages=credited(parts["advantage"], parts["advantage"](group, ALONE.mean), group),
        **weights_of(parts["weighting"], group, ALONE.mean, step),
        behaviour_logprobs=None if algorithm.samples_from_policy else group.behaviour_logprobs,
        decision=GateDecision(open=opened, confidence=torch.full((len(opened),), 0.5)),
        step=step,
    )


def _prompts() -> PromptBatch:
    """Two prompts of two tokens, each with a teacher of two."""
    return PromptBatch(
        prompt_ids=torch.tensor([1, 2]),
        tokens=torch.zeros(2, 2, dtype=torch.int64),
        mask=torch.ones(2, 2, dtype=torch.bool),
        answers=("1", "2"),
        teacher_tokens=torch.zeros(2, 2, dtype=torch.int64),
        teacher_mask=torch.ones(2, 2, dtype=torch.bool),
        teacher_rewards=torch.ones(2),
    )


def _rollouts(prompts: PromptBatch, size: int) -> RolloutGroup:
    """The first prompt was solved once, the second never."""
    rewards = torch.zeros(2, size)
    rewards[0, 0] = 1.0
    return RolloutGroup(
        prompt_ids=prompts.prompt_ids,
        prompt_tokens=prompts.tokens,
        prompt_mask=prompts.mask,
        tokens=torch.zeros(2, size, 2, dtype=torch.int64),
        mask=torch.ones(2, size, 2, dtype=torch.bool),
        rewards=rewards,
        successes=rewards == 1,
        finished=torch.ones(2, size, dtype=torch.bool),
        is_teacher=torch.zeros(2, size, dtype=torch.bool),
        present=torch.ones(2, size, dtype=torch.bool),
        behaviour_logprobs=torch.full((2, size, 2), -1.0),
    )


def _no_text(_group: RolloutGroup) -> list[str]:
    raise AssertionError("supervised learning decodes nothing")


def _is_ours(part: object) -> bool:
    """Whether a part, and every part in it, is of this package."""
    held = getattr(part, "__dict__", {}).values()
    name = getattr(part, "__module__", type(part).__module__)
    inner = (value for value in held if callable(value))
    return str(name).startswith("hapo_lit.") and all(_is_ours(value) for value in inner)


@contextmanager
def _named(part: object, key: str, is_ours: bool) -> Iterator[list[bool]]:
    """Inside, what our parts raise is about settings; somebody else's may need what a made-up group has not got."""
    try:
        yield []
    except PartError:
        raise
    except Exception as error:
        if is_ours:
            raise PartError(f"{key}: {part_name(part)} failed when it was tried: {one_line(str(error))}") from error


# -- the optimiser ------------------------------------------------------------------------------------------------


def _try_optimizer(module: HapoModule) -> None:
    """Make it for the policy's parameters, and take a step with it at two weights of its own."""
    rate = max((module.phases.learning_rate(step) for step in (0, module.phases.steps // 2)), default=0.0)
    optimizer = made(module.make_optimizer, trained_parameters(module.policy))
    for name, value in unwrapped(optimizer).defaults.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not torch.tensor(number).isfinite():
                raise PartError(f"optim.{name} must be finite, got {value}")
    weights = torch.nn.Parameter(torch.ones(2, 2))
    try:
        small = module.make_optimizer([weights])
    except Exception:  # one that is made for other shapes
        return
    for gradient in (0.0, 1.0):
        weights.grad = torch.full_like(weights, gradient)
        for group in small.param_groups:
            group["lr"] = rate
        try:
            small.step()
        except Exception as error:
            raise PartError(
                f"optim: {part_name(small)} cannot take a step at the learning rate {rate:g}: {one_line(str(error))}"
            ) from error
        if not bool(weights.isfinite().all()) or (not gradient and not 0 <= float(weights.detach().max()) <= 1):
            raise PartError(
                f"optim: a step of {part_name(small)} at the learning rate {rate:g} takes a weight of 1 to "
                f"{float(weights.detach().max()):g} with a gradient of {gradient:g}: lower optim.weight_decay or "
                f"learning_rate"
            )
