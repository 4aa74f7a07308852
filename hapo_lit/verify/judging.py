"""What a verifier returns becomes rewards and successes, or an error that names the verifier.

Success and reward are two things.  Gates, injectors, teacher checks and evaluations see whether a response is right;
advantages see what it earns.  A success is never inferred from a reward above zero: a verifier that gives something for
the right form would call every answer right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from hapo_lit.contracts import asked_by
from hapo_lit.errors import PartError, VerifierError, one_line, part_name
from hapo_lit.protocols import HasSuccessRule, Verifier
from hapo_lit.rows import Judgement, Questions

EXPECTED = "a tensor of {count} rewards, or a pair of tensors (rewards, successes)"


def judge(verifier: Verifier, responses: Sequence[str], questions: Questions) -> Judgement:
    """The verifier's judgement on ``N`` responses.

    Raises:
        PartError: what it returns has the wrong type, shape or dtype, or it asks for what is not known.
        VerifierError: a reward is not a finite number.
    """
    asked = {name: _column(verifier, name, questions) for name in asked_by(verifier)}
    output = verifier(responses, questions.answers, **asked)

    def case(row: int) -> str:
        return f": reference {one_line(questions.answers[row], 60)!r}, response {one_line(responses[row], 160)!r}"

    return judged(verifier, output, len(responses), case)


def judged(part: object, output: Any, count: int, case: Callable[[int], str] | None = None) -> Judgement:
    """The output of a verifier or a teacher check for ``count`` responses, its rewards as ``float32``.

    Rewards alone: those succeed that the part's own rule says, or without a rule those of exactly 1.

    Args:
        part: whose output it is.
        output: rewards, or rewards and successes.
        count: how many responses there are.
        case: what a message says of one of them besides its number.

    Raises:
        PartError: it has the wrong type, shape or dtype.
        VerifierError: a reward is not a finite number.
    """
    if isinstance(output, tuple) and len(output) == 2:
        rewards, successes = (_checked(part, value, count) for value in output)
        if successes.dtype != torch.bool:
            _refuse(part, f"successes of dtype {successes.dtype}, not torch.bool", count)
        return Judgement(_finite(part, rewards.float(), case), successes)
    rewards = _checked(part, output, count)
    if not isinstance(part, HasSuccessRule):
        return Judgement(_finite(part, rewards.float(), case), rewards == 1)
    return judged(part, (rewards, part.succeeds(rewards)), count, case)


def _column(verifier: Verifier, name: str, questions: Questions) -> Sequence[Any]:
    column: Sequence[Any] = getattr(questions, name)
    if len(column) != len(questions.answers):
        raise PartError(f"{part_name(verifier)} asks for {name}, and these prompts come without")
    return column


def _checked(part: object, value: object, count: int) -> Tensor:
    if not isinstance(value, Tensor):
        _refuse(part, f"a {type(value).__name__}", count)
    if tuple(value.shape) != (count,):
        _refuse(part, f"a tensor of shape {tuple(value.shape)}", count)
    if value.is_complex():
        _refuse(part, f"a tensor of dtype {value.dtype}", count)
    return value.detach()


def _finite(part: object, rewards: Tensor, case: Callable[[int], str] | None) -> Tensor:
    finite = rewards.isfinite()
    if not finite.all():
        row = int(finite.int().argmin())
        raise VerifierError(
            f"{part_name(part)} gave the reward {float(rewards[row])} to response {row + 1} of {len(rewards)}, and "
            f"rewards must be finite numbers{case(row) if case else ''}"
        )
    return rewards


def _refuse(part: object, found: str, count: int) -> NoReturn:
    raise PartError(f"{part_name(part)}.__call__ must return {EXPECTED.format(count=count)}; it returned {found}")
