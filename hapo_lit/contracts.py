"""Whether a part keeps to its protocol: its methods when it is built, and what it returns when it is asked.

A part of one's own that lacks a method, or returns something else, is named in one line with what was expected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from hapo_lit.errors import PartError, part_name
from hapo_lit.rows import Questions
from hapo_lit.types import CarrierError, GateDecision, PromptBatch, RolloutGroup

Made = TypeVar("Made")


def check_part(key: str, part: object, protocol: type) -> None:
    """Whether a part has what its protocol names, and its methods take as many arguments.

    Args:
        key: of the part in ``conf/``, such as ``gate``.
        part: the object.
        protocol: whose members it must have.

    Raises:
        PartError: what is missing, or which method takes other arguments.
    """
    names = list(_members(protocol))
    missing = [name for name in names if not _has(part, name, inspect.isfunction(vars(protocol).get(name)))]
    if missing:
        what = "there is none" if part is None else f"{part_name(part)} lacks {', '.join(missing)}"
        raise PartError(
            f"{key}: {what}; {protocol.__module__}.{protocol.__qualname__} says what it must have: {', '.join(names)}"
        )
    for name in names:
        declared = vars(protocol).get(name)
        if inspect.isfunction(declared):
            _check_arguments(key, part, name, list(inspect.signature(declared).parameters)[1:])


def asked_by(part: object) -> Sequence[str]:
    """What a verifier asks for besides the reference answers (``protocols.AsksFor``).

    Raises:
        PartError: there is no such thing.
    """
    known, asked = Questions._fields[1:], getattr(part, "asks_for", ())
    if isinstance(asked, str) or not set(asked) <= set(known):
        raise PartError(f"{part_name(part)}.asks_for is {asked!r}; it may have of {', '.join(known)}")
    return asked  # type: ignore[no-any-return]


def _has(part: object, name: str, is_method: bool) -> bool:
    """Whether there is such an attribute, or such a method; a property is not asked for its value."""
    if is_method:
        return callable(part if name == "__call__" else getattr(part, name, None))
    return hasattr(type(part), name) or hasattr(part, name)


def _members(protocol: type) -> Iterator[str]:
    """The attributes and methods that a protocol names, in the order of its file."""
    known = dict.fromkeys((*vars(protocol).get("__annotations__", ()), *vars(protocol)))
    return (name for name in known if name == "__call__" or not name.startswith("_"))


def _check_arguments(key: str, part: object, name: str, expected: list[str]) -> None:
    method = part if name == "__call__" else getattr(part, name)
    asked = asked_by(part) if name == "__call__" else ()
    try:
        signature = inspect.signature(method)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # of a function in C, which has none
        return
    try:
        signature.bind(*expected, **dict.fromkeys(asked))
    except TypeError:
        raise PartError(
            f"{key}: {part_name(part)}.{name}{signature} must take ({', '.join([*expected, *asked])})"
        ) from None


def answer(function: Callable[..., Any], *arguments: object) -> Any:
    """What a part says, given these arguments.

    Raises:
        PartError: the part made a carrier (:mod:`hapo_lit.types`) of what that cannot hold.
    """
    try:
        return function(*arguments)
    except CarrierError as error:
        raise PartError(f"{_call(function)}: {error}") from error


def sampled_rows(injector: object, output: object) -> int:
    """How many responses of a group an injector wants to be sampled."""
    if type(output) is not int:
        _refuse(f"{part_name(injector)}.rollouts", "a whole number", _kind(output))
    return output


def sampled(engine: object, output: object, prompts: PromptBatch, size: int) -> RolloutGroup:
    """What a rollout engine sampled: a group of ``size`` responses to each prompt, in the order of the prompts."""
    method = f"{part_name(engine)}.generate"
    shape = (len(prompts.answers), size)
    if not isinstance(output, RolloutGroup):
        _refuse(method, f"a RolloutGroup of {shape[0]} prompts with {size} responses", _kind(output))
    if tuple(output.rewards.shape) != shape:
        _refuse(method, f"a group of shape [P, G] = {shape}", str(tuple(output.rewards.shape)))
    if not torch.equal(output.prompt_ids, prompts.prompt_ids):
        _refuse(method, "its prompts in their order", "other prompt_ids")
    return output


def decided(gate: object, output: object, prompts: int) -> GateDecision:
    """A gate's decision on so many prompts; an estimate of the success rate is in [0, 1]."""
    method = f"{part_name(gate)}.__call__"
    if not isinstance(output, GateDecision):
        _refuse(method, f"a GateDecision(open, confidence) for {prompts} prompts", _kind(output))
    for name, value in {"open": output.open, "confidence": output.confidence}.items():
        if tuple(value.shape) != (prompts,):
            _refuse(method, f"{name} of shape [P] = ({prompts},)", str(tuple(value.shape)))
    if not bool(((output.confidence >= 0) & (output.confidence <= 1)).all()):
        _refuse(method, "a confidence in [0, 1]", str(output.confidence.tolist()[:8]))
    return output


def injected(injector: object, output: object, prompts: PromptBatch, open: Tensor) -> RolloutGroup:
    """An injector's groups: a teacher is only where the gate is open and the teacher check accepted it."""
    method = f"{part_name(injector)}.__call__"
    if not isinstance(output, RolloutGroup):
        _refuse(method, "a RolloutGroup", _kind(output))
    if not torch.equal(output.prompt_ids, prompts.prompt_ids):
        _refuse(method, "the prompts of its group in their order", "other prompt_ids")
    taught = (output.is_teacher & output.present).any(1)
    if bool((taught & ~(open & prompts.teacher_usable)).any()):
        _refuse(method, "teachers only where the gate is open and prompts.teacher_usable", "one elsewhere")
    return output


def credited(estimator: object, output: object, group: RolloutGroup) -> Tensor:
    """An advantage estimator's ``[P, G]`` finite advantages."""
    return _numbers(f"{part_name(estimator)}.__call__", output, tuple(group.rewards.shape), "[P, G]", group.present)


def weighed(weighting: object, output: object, group: RolloutGroup) -> Tensor:
    """A token weighting's ``[P, G, T]`` finite weights, none of which is negative."""
    method = f"{part_name(weighting)}.__call__"
    weights = _numbers(method, output, tuple(group.tokens.shape), "[P, G, T]", group.mask)
    if bool((weights < 0).any()):
        _refuse(method, "weights of 0 or more", f"one of {float(weights.min())}")
    return weights


def made(part: object, output: object, kind: type[Made]) -> Made:
    """What a part is called for, of a class of ours."""
    if not isinstance(output, kind):
        _refuse(_call(part), f"a {kind.__module__}.{kind.__qualname__}", _kind(output))
    return output


def text_of(part: object, method: str, output: object) -> str:
    """A text that a method of a part returned."""
    if not isinstance(output, str):
        _refuse(f"{part_name(part)}.{method}", "a text", _kind(output))
    return output


def reported(part: object, metrics: object) -> dict[str, float]:
    """A part's metrics as plain numbers."""
    if not isinstance(metrics, Mapping):
        _refuse(f"{part_name(part)}.metrics", "a dictionary of names and numbers", _kind(metrics))
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (TypeError, ValueError) as error:
        _refuse(f"{part_name(part)}.metrics", "a dictionary of names and numbers", str(error))


def per_token(part: object, output: object, logprobs: Tensor) -> Tensor:
    """A term of the loss for each of ``[N, T]`` tokens; to look at its values would be to wait for the device."""
    if not isinstance(output, Tensor) or output.shape != logprobs.shape or not output.is_floating_point():
        expected = f"a floating-point tensor of shape [N, T] = {tuple(logprobs.shape)}"
        _refuse(_call(part), expected, _kind(output))
    return output


def clipped(clip: object, output: object, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """A clip's objective for each of ``[N, T]`` tokens, and where it acted."""
    if not isinstance(output, tuple) or len(output) != 2:
        _refuse(_call(clip), "a pair of tensors (objective, where it acted)", _kind(output))
    objective, acted = output
    if not isinstance(acted, Tensor) or acted.shape != logprobs.shape or acted.dtype != torch.bool:
        expected = f"where it acted as a tensor of bool and shape [N, T] = {tuple(logprobs.shape)}"
        _refuse(_call(clip), expected, _kind(acted))
    return per_token(clip, objective, logprobs), acted


def _call(part: object) -> str:
    """What messages call the function that a part is asked by."""
    return part_name(part) if inspect.isroutine(part) else f"{part_name(part)}.__call__"


def _numbers(method: str, output: object, shape: tuple[int, ...], axes: str, counted: Tensor) -> Tensor:
    expected = f"a tensor of float32 or float64 and shape {axes} = {shape}"
    if not isinstance(output, Tensor) or tuple(output.shape) != shape:
        _refuse(method, expected, _kind(output))
    if output.dtype not in (torch.float32, torch.float64):
        _refuse(method, expected, _kind(output))
    if not bool((output.isfinite() | ~counted).all()):
        _refuse(method, "finite numbers", f"{int((~output.isfinite() & counted).sum())} that are not")
    return output


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:100]


def _refuse(method: str, expected: str, found: str) -> NoReturn:
    raise PartError(f"{method} must return {expected}; it returned {found}")
