"""Templates: how a problem becomes a prompt, and how a teacher's solution becomes a response."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any, Protocol, runtime_checkable


class Template(Protocol):
    special_tokens: bool
    """True = the tokenizer adds its own special tokens to the prompt."""

    @property
    def written(self) -> str:
        """What it writes into responses itself: a special token that is part of it may be in a solution too."""

    def prompt(self, tokenizer: Any, problem: str) -> str:
        """The text of the prompt."""

    def response(self, solution: str) -> str:
        """The teacher's response to the prompt, without the end-of-sequence token."""


class _Responses:
    """How a teacher's solution is written.

    Args:
        response: a text with ``{solution}`` in it, for example with think tags around it.
        begun: the beginning of the response that the prompt already holds; it is removed from a teacher's response.
    """

    def __init__(self, response: str, begun: str) -> None:
        _must_hold("{solution}", response)
        self._response, self.begun = response, begun

    @property
    def written(self) -> str:
        return self._response + self.begun

    def response(self, solution: str) -> str:
        return self._response.replace("{solution}", solution).removeprefix(self.begun)


class PlainTemplate(_Responses):
    """``text`` with ``{problem}`` filled in, and the special tokens that the tokenizer adds by itself.

    Args:
        text: the prompt, with ``{problem}`` in it.
        response, begun: see :class:`_Responses`.
    """

    special_tokens = True

    def __init__(self, text: str = "{problem}\n", response: str = "{solution}", begun: str = "") -> None:
        _must_hold("{problem}", text)
        super().__init__(response, begun)
        self.text = text

    def prompt(self, tokenizer: Any, problem: str) -> str:
        return self.text.replace("{problem}", problem)


@runtime_checkable
class HasDate(Protocol):
    """A template whose prompts may hold a date, which must be that of the run's start after a resume too."""

    date: datetime
    """What a prompt is given as now."""
    uses_date: bool
    """Whether a prompt has asked for it."""


class ChatTemplate(_Responses):
    """The tokenizer's own chat template.  One with a clock (``strftime_now``) gets the day on which the run began.

    Args:
        system: the system message; None = the template's own, if it has one.
        user: the user's message, with ``{problem}`` in it.
        response, begun: see :class:`_Responses`; ``begun`` is added to the prompt unless the template ends with it.
    """

    special_tokens = False

    def __init__(
        self,
        system: str | None = None,
        user: str = "{problem}",
        response: str = "{solution}",
        begun: str = "",
    ) -> None:
        _must_hold("{problem}", user)
        super().__init__(response, begun)
        self.system, self.user = system, user
        self.date, self.uses_date = datetime.combine(date.today(), time()), False

    def prompt(self, tokenizer: Any, problem: str) -> str:
        if not tokenizer.chat_template:
            raise ValueError("this tokenizer has no chat template; choose template=plain or another model")
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": self.user.replace("{problem}", problem)})
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, strftime_now=self._strftime
        )
        return text if text.endswith(self.begun) else text + self.begun

    def _strftime(self, form: str) -> str:
        self.uses_date = True
        return self.date.strftime(form)


def _must_hold(field: str, text: str) -> None:
    if field not in text:
        raise ValueError(f"the template {text!r} has no {field} in it")
