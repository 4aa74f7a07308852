"""Templates: how a problem becomes a prompt, and how a teacher's solution becomes a response."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any, Protocol, runtime_checkable

import jinja2

from hapo_lit.errors import one_line


class Template(Protocol):
    """What a template must have.  One with special tokens in what it writes into responses itself, which a solution may
    hold too, has these texts as ``written``."""

    special_tokens: bool
    """True = the tokenizer adds its own special tokens to the prompt."""

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


_TO_THE_USER = "set template.system=null \"template.user='INSTRUCTIONS {problem}'\""


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
        text = self._rendered(tokenizer, self.system, problem)
        return text if text.endswith(self.begun) else text + self.begun

    def check(self, tokenizer: Any) -> None:
        """Raise ``ValueError`` if the chat template leaves out the system message."""
        if self.system and self._rendered(tokenizer, self.system, "1") == self._rendered(tokenizer, "2", "1"):
            raise ValueError(
                f"the tokenizer's chat template leaves out the system message {one_line(self.system, 80)!r}: "
                f"{_TO_THE_USER}"
            )

    def _rendered(self, tokenizer: Any, system: str | None, problem: str) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": self.user.replace("{problem}", problem)})
        try:
            text: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, strftime_now=self._strftime
            )
        except (jinja2.TemplateError, TypeError) as error:
            without = f"; if it takes no system message, {_TO_THE_USER}" if system else ""
            raise ValueError(
                f"the tokenizer's chat template cannot write a prompt ({one_line(str(error), 200)}): choose "
                f"template=plain, or correct it{without}"
            ) from error
        return text

    def _strftime(self, form: str) -> str:
        self.uses_date = True
        return self.date.strftime(form)


def _must_hold(field: str, text: str) -> None:
    if field not in text:
        raise ValueError(f"the template {text!r} has no {field} in it")
