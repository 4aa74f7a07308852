"""Prompt templates: a problem's text as the policy sees it."""

from __future__ import annotations

from typing import Any, Protocol


class Template(Protocol):
    def encode(self, tokenizer: Any, problem: str) -> list[int]:
        """Token ids of the prompt, special tokens included."""


class PlainTemplate:
    """``text`` with ``{problem}`` filled in, and the special tokens that the tokenizer adds by itself."""

    def __init__(self, text: str = "{problem}\n") -> None:
        if "{problem}" not in text:
            raise ValueError(f"the template {text!r} has no {{problem}} in it")
        self.text = text

    def encode(self, tokenizer: Any, problem: str) -> list[int]:
        ids: list[int] = tokenizer(self.text.replace("{problem}", problem))["input_ids"]
        return ids


class ChatTemplate:
    """The tokenizer's own chat template, with an optional system message."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system

    def encode(self, tokenizer: Any, problem: str) -> list[int]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        text = tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": problem}], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
