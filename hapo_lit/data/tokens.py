"""Text as token ids, so that text of the data never becomes a control token.

A tokenizer turns ``<|im_end|>`` in a text into the token that ends a turn, whoever wrote it.  Here a template's control
tokens are real, while in problems and solutions the same characters are encoded as ordinary text.  Added tokens that
are not special, such as Qwen3's ``<think>``, are tokens in any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Encoding

from hapo_lit.contracts import check_part, text_of
from hapo_lit.data.templates import ChatTemplate, Template
from hapo_lit.errors import one_line

MARK = "\ufdd0"
"""Stands, with a character of :data:`PLACES`, for a control token's text that the data hold.  Unicode gives it no
meaning and reserves it for use within a program."""
PLACES = 0xF0000
"""Code point of the first character of a private plane."""


class TextEncoder:
    """Encodes problems and solutions for one template.

    Args:
        tokenizer: the policy's.
        template: writes prompts and responses.  A special token that is part of its own ``written`` text, such as a
            think tag, may be in a solution too.
        stop_ids: tokens that end the policy's responses, besides the tokenizer's end of sequence.
    """

    def __init__(self, tokenizer: Any, template: Template, stop_ids: Sequence[int] = ()) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer names no end of sequence, with which a teacher ends: set +model.tokenizer.eos_token"
            )
        check_part("template", template, Template)
        self.tokenizer, self.template = tokenizer, template
        self.end_id: int = tokenizer.eos_token_id
        """Ends every teacher."""
        self.stop_ids = {self.end_id, *stop_ids}
        self._special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        written = getattr(template, "written", "")
        self._hidden = [MARK, *sorted(text for text in self._special if text not in written)]
        self._pattern = _any_of(self._hidden)
        self._appended = self.stop_ids.intersection(tokenizer.convert_tokens_to_ids(sorted(self._special)))
        """Ends that a tokenizer may append to a prompt by itself."""
        ends = [*self._hidden[1:], *tokenizer.convert_ids_to_tokens(sorted(self.stop_ids))]
        self._ends = re.compile(rf"(?:(?:{_any_of(ends).pattern})\s*)+\Z")

    def prompts(self, problems: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts; a stop that the tokenizer appends by itself is taken off."""
        ids = self._encoded(self.prompt_texts(problems), self.template.special_tokens)
        if self.template.special_tokens:
            for tokens in ids:
                while tokens and tokens[-1] in self._appended:
                    tokens.pop()
        return ids

    def check_prompts(self, prompts: Sequence[list[int]]) -> None:
        """Look at the prompts of different problems before a run.

        Raises:
            ValueError: one ends with a stop, a control token came out of a problem's text, all are the same, or the
                system message is in none.
        """
        if isinstance(self.template, ChatTemplate):
            self.template.check(self.tokenizer)
        if len(prompts) > 1 and all(tokens == prompts[0] for tokens in prompts):
            text = one_line(self.tokenizer.decode(prompts[0]), 200)
            raise ValueError(
                f"{len(prompts)} different problems have the same prompt {text!r}: the template leaves out the problem "
                f"(does a chat template expect another form of message content?); choose another, or template=plain"
            )
        control = set(self.tokenizer.convert_tokens_to_ids(self._hidden[1:]))
        written = [token for token in self.prompts(["1"])[0] if token in control]
        for tokens in prompts:
            end = next((token for token in reversed(tokens) if self.tokenizer.decode([token]).strip()), None)
            if end in self.stop_ids:
                raise ValueError(
                    f"prompts end with {self.tokenizer.convert_ids_to_tokens(end)!r}, at which responses stop: choose "
                    f"another template, or correct the tokenizer's chat template (it ignores add_generation_prompt?)"
                )
            if [token for token in tokens if token in control] != written:
                text = one_line(self.tokenizer.decode(tokens), 200)
                raise ValueError(
                    f"control tokens came out of a problem's text, in the prompt {text!r}: leave out such rows"
                )

    def prompt_texts(self, problems: Sequence[str]) -> list[str]:
        """The prompts as text, in which control tokens of the problems are marked."""
        texts = [self.template.prompt(self.tokenizer, self._marked(problem)) for problem in problems]
        return [text_of(self.template, "prompt", text) for text in texts]

    def within(self, problems: Sequence[str], limit: int) -> list[bool]:
        """Which prompts are within a limit.  Most are not tokenised: a prompt has no more tokens than bytes."""
        texts = self.prompt_texts(problems)
        spare = 8 * self.template.special_tokens  # room for the special tokens that a tokenizer may add
        unsure = [index for index, text in enumerate(texts) if MARK in text or len(text.encode()) + spare > limit]
        fitting = [True] * len(texts)
        for index, tokens in zip(unsure, self.prompts([problems[index] for index in unsure]), strict=True):
            fitting[index] = len(tokens) <= limit
        return fitting

    def without_end(self, solution: str) -> str:
        """A solution without the stops and other control tokens at its end, if its author has written any."""
        return self._ends.sub("", solution, count=1)

    def responses(self, solutions: Sequence[str]) -> list[list[int]]:
        """Token ids of teachers' responses, without an end."""
        texts = [self.template.response(self._marked(text)) for text in solutions]
        return self._encoded([text_of(self.template, "response", text) for text in texts], special_tokens=False)

    def reads_back(self, responses: Sequence[list[int]]) -> list[bool]:
        """Whether the text of each response, encoded again, gives the same ids."""
        if not responses:  # of which a tokenizer would make one empty text
            return []
        texts = self.tokenizer.batch_decode(responses, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        again = self._encoded([self._marked(text) for text in texts], special_tokens=False)
        return [ids == tokens for ids, tokens in zip(again, responses, strict=True)]

    def _marked(self, text: str) -> str:
        """Text in which control tokens are replaced by marks, so that no template and no tokenizer takes them."""
        return self._pattern.sub(lambda found: MARK + chr(PLACES + self._hidden.index(found[0])), text)

    def _unmarked(self, text: str) -> str:
        return re.sub(f"{MARK}(.)", lambda found: self._hidden[ord(found[1]) - PLACES], text, flags=re.DOTALL)

    def _encoded(self, texts: list[str], special_tokens: bool) -> list[list[int]]:
        ids = token_ids(self.tokenizer, texts, special_tokens)
        for index, text in enumerate(texts):
            if MARK in text:
                ids[index] = self._split(text, special_tokens)
        return ids

    def _split(self, text: str, special_tokens: bool) -> list[int]:
        """Token ids of a text with marks.

        Tokenizers take a text apart at its special tokens before all else, and so does this; the pieces between them
        are encoded with special tokens split.
        """
        pieces = re.split(f"({_any_of(self._special).pattern})", text)
        if not getattr(self.tokenizer, "is_fast", False):
            ids = [
                token
                for piece in filter(None, pieces)
                for token in self.tokenizer(
                    self._unmarked(piece), add_special_tokens=False, split_special_tokens=piece not in self._special
                )["input_ids"]
            ]
            return self.tokenizer.build_inputs_with_special_tokens(ids) if special_tokens else ids
        backend = self.tokenizer.backend_tokenizer
        before = backend.encode_special_tokens
        encodings = []
        try:
            for piece in filter(None, pieces):
                backend.encode_special_tokens = piece not in self._special
                encodings.append(backend.encode(self._unmarked(piece), add_special_tokens=False))
        finally:
            backend.encode_special_tokens = before
        return list(backend.post_process(Encoding.merge(encodings), None, special_tokens).ids)


def tokenizer_name(tokenizer: Any) -> str:
    """Where a tokenizer comes from and how many tokens it knows, for messages."""
    return f"{tokenizer.name_or_path or 'of the embedded experiment'} ({len(tokenizer):,} tokens)"


def unknown_share(prompts: Iterable[Sequence[int]], tokenizer: Any) -> float:
    """The share of prompts that hold the tokenizer's token for text which it cannot read."""
    verdicts = [tokenizer.unk_token_id in tokens for tokens in prompts]
    return sum(verdicts) / max(1, len(verdicts)) if tokenizer.unk_token_id is not None else 0.0


def unknown_warning(prompts: Iterable[Sequence[int]], tokenizer: Any) -> list[str]:
    """A line that warns of such prompts, if there are any."""
    if not (share := unknown_share(prompts, tokenizer)):
        return []
    return [
        f"warning: {100 * share:.0f} % of the prompts hold text that the tokenizer {tokenizer_name(tokenizer)} cannot "
        f"read ({tokenizer.unk_token}): is model.path the model that you mean?"
    ]


def too_long(lengths: Sequence[int], tokenizer: Any, max_prompt_tokens: int) -> str:
    """What to say where no prompt fits, given their lengths."""
    return (
        f"all {len(lengths):,} prompts have more than max_prompt_tokens={max_prompt_tokens} tokens ({min(lengths):,} "
        f"to {max(lengths):,} with the tokenizer {tokenizer_name(tokenizer)}): raise max_prompt_tokens, or name the "
        f"model that reads them with model=hf model.path=FOLDER"
    )


def token_ids(tokenizer: Any, texts: list[str], special_tokens: bool) -> list[list[int]]:
    """Token ids of texts.  Fast tokenizers are called without offsets, a quarter of the work."""
    if getattr(tokenizer, "is_fast", False):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special_tokens)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=special_tokens)["input_ids"] if texts else []
    return ids


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds these texts, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))
