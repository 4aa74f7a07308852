"""The errors a user may meet, each with a message that names the fix, and what their messages are made of.

Imports nothing heavy, so that a mistyped command is answered at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hapo_lit.types import Experience


class SetupError(Exception):
    """Something the user gave cannot be used; the message names it and the fix."""


class ResumeError(ValueError):
    """A checkpoint does not fit the run that would resume from it; the message says what differs."""


class VerifierError(RuntimeError):
    """Too many verdicts failed for rewards to be trusted; the message says why."""


class PartError(ValueError):
    """A part does not keep to its protocol; the message names part, method, and what was expected."""


class NotFiniteError(RuntimeError):
    """Weights are not finite, or losses or gradients of several updates in a row, whose last batch it then carries."""

    def __init__(self, message: str, experience: Experience | None = None) -> None:
        super().__init__(message)
        self.experience = experience


class EngineError(RuntimeError):
    """The rollout engine failed, or samples from other weights than the policy's; the message says what to do."""


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message says where and why."""


class UnhealthyError(RuntimeError):
    """A run was stopped for what its metrics say of it, and its state is saved; the message says where."""


class MachineError(RuntimeError):
    """The machine ran out of something other than memory; the message says of what."""


class NoRunError(ValueError):
    """A folder holds no run that a report could be about; the message names the folder."""


class MemoryShortError(RuntimeError):
    """A step does not fit into memory; the message says which setting makes it smaller."""


class Pruned(Exception):
    """A sweep's pruner ended this job early; the message says when and why, ``value`` is what the job had reached."""

    def __init__(self, message: str, value: float) -> None:
        super().__init__(message)
        self.value = value


def part_name(part: object) -> str:
    """What messages call a part: the class that it is of, or the function that it is, as YAML would name it."""
    kind = part if hasattr(part, "__qualname__") else type(part)
    return f"{kind.__module__}.{kind.__qualname__}"  # type: ignore[attr-defined]


def cut(text: str, length: int) -> str:
    """A text, its middle left out if it is longer than that."""
    return text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 2 :]}"


def one_line(text: str, length: int = 300) -> str:
    """Text that anybody wrote, as one line for a terminal or a message.

    Line ends and other unprintable characters become escapes such as ``\\n``; the middle of a long text is left out.
    """
    return visible(text.strip(), length)


def visible(text: str, length: int = 300) -> str:
    """The same with the space around it, which matters in a prompt."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut(text, length))


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?``, or nothing if no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""
