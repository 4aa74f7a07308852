"""Problems -> token ids -> padded batches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hapo_lit.data.problems import Problem
from hapo_lit.data.teachers import TeacherCheck
from hapo_lit.data.templates import Template
from hapo_lit.types import PromptBatch

PROMPT_LONG = "prompt_too_long"
TEACHER_USABLE, TEACHER_REJECTED = "teacher_usable", "teacher_rejected"
TEACHER_LONG, TEACHER_ABSENT = "teacher_too_long", "teacher_absent"
FATES = (PROMPT_LONG, TEACHER_USABLE, TEACHER_REJECTED, TEACHER_LONG, TEACHER_ABSENT)
"""What may become of a training problem; exactly one of them does."""


class Encoded(NamedTuple):
    """A problem ready to be batched."""

    prompt_id: int
    tokens: list[int]
    answer: str
    teacher_tokens: list[int]
    """The solution and its end-of-sequence token; empty = no teacher, or one that does not fit."""
    teacher_reward: float
    """What the teacher's row would earn; 0 = must not be used."""
    difficulty: str = ""
    """The problem's label."""


def encode(
    problems: Sequence[Problem],
    tokenizer: Any,
    template: Template,
    teacher_check: TeacherCheck,
    max_prompt_tokens: int,
    max_response_tokens: int,
    tally: Counter[str],
) -> list[Encoded]:
    """Tokenise problems and judge their teachers.

    A prompt over ``max_prompt_tokens`` is dropped; a teacher over ``max_response_tokens`` counts as absent, since the
    policy could never write it.  Of several solutions that fit the longest that the check accepts is taken.  ``tally``
    counts which of the :data:`FATES` each problem met.

    Raises:
        ValueError: there is no problem, or no prompt fits.
    """
    if not problems:
        raise ValueError("there are no problems: look at the sizes or files under data.source")
    prompts = prompt_tokens(problems, tokenizer, template)
    fitting = [index for index, tokens in enumerate(prompts) if len(tokens) <= max_prompt_tokens]
    if len(fitting) < len(problems):
        tally[PROMPT_LONG] += len(problems) - len(fitting)
    if not fitting:
        raise ValueError(f"all {len(problems)} prompts are longer than {max_prompt_tokens} tokens; raise the limit")
    kept = [problems[index] for index in fitting]
    teachers = _teachers(kept, tokenizer, template, teacher_check, max_response_tokens, tally)
    return [
        Encoded(problem.prompt_id, prompts[index], problem.answer, *teacher, problem.difficulty)
        for index, problem, teacher in zip(fitting, kept, teachers, strict=True)
    ]


def prompt_tokens(problems: Sequence[Problem], tokenizer: Any, template: Template) -> list[list[int]]:
    """Token ids of the prompts."""
    texts = [template.prompt(tokenizer, problem.problem) for problem in problems]
    return token_ids(tokenizer, texts, template.special_tokens)


def token_ids(tokenizer: Any, texts: list[str], special_tokens: bool) -> list[list[int]]:
    """Token ids of texts.  Fast tokenizers are asked directly and not for offsets, which cost a quarter of the time."""
    if getattr(tokenizer, "is_fast", False):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special_tokens)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=special_tokens)["input_ids"] if texts else []
    return ids


def fits(problems: Sequence[Problem], tokenizer: Any, template: Template, max_prompt_tokens: int) -> list[bool]:
    """Which prompts are within the limit.  Most need not be tokenised: a token is a byte at least."""
    texts = [template.prompt(tokenizer, problem.problem) for problem in problems]
    spare = 8 * template.special_tokens  # what a tokenizer may add
    unsure = [index for index, text in enumerate(texts) if len(text.encode()) + spare > max_prompt_tokens]
    within = [True] * len(texts)
    if unsure:
        ids = token_ids(tokenizer, [texts[index] for index in unsure], template.special_tokens)
        for index, tokens in zip(unsure, ids, strict=True):
            within[index] = len(tokens) <= max_prompt_tokens
    return within


def _teachers(
    problems: Sequence[Problem],
    tokenizer: Any,
    template: Template,
    teacher_check: TeacherCheck,
    max_response_tokens: int,
    tally: Counter[str],
) -> list[tuple[list[int], float]]:
    """Each problem's teacher as tokens with its reward."""
    texts = [[text for text in (problem.solution, *problem.others) if text] for problem in problems]
    written = [template.response(text) for own in texts for text in own]
    ids = iter(token_ids(tokenizer, written, special_tokens=False))
    found: list[tuple[list[int], float]] = [([], 0.0)] * len(problems)
    candidates: list[list[tuple[list[int], str]]] = []
    fates = [TEACHER_ABSENT] * len(problems)
    for index, own in enumerate(texts):
        every = [([*next(ids), tokenizer.eos_token_id], text) for text in own]
        fitting = [each for each in every if len(each[0]) <= max_response_tokens]
        candidates.append(sorted(fitting, key=lambda each: len(each[0])))
        if every:
            fates[index] = TEACHER_REJECTED if fitting else TEACHER_LONG
    while asked := [index for index, left in enumerate(candidates) if left]:
        tried = [candidates[index].pop() for index in asked]
        rewards = teacher_check(
            [replace(problems[i], solution=text) for i, (_, text) in zip(asked, tried, strict=True)]
        )
        for index, (tokens, _), reward in zip(asked, tried, rewards, strict=True):
            if reward > 0:
                found[index], fates[index] = (tokens, reward), TEACHER_USABLE
                candidates[index].clear()
            elif not found[index][0]:
                found[index] = (tokens, 0.0)
    tally.update(fates)
    return found


def collate(encoded: Sequence[Encoded], pad_id: int) -> PromptBatch:
    """Pad prompts on the left and teachers on the right."""
    tokens, mask = _padded([item.tokens for item in encoded], pad_id, left=True)
    teacher_tokens, teacher_mask = _padded([item.teacher_tokens for item in encoded], pad_id, left=False)
    return PromptBatch(
        prompt_ids=torch.tensor([item.prompt_id for item in encoded]),
        tokens=tokens,
        mask=mask,
        answers=tuple(item.answer for item in encoded),
        teacher_tokens=teacher_tokens,
        teacher_mask=teacher_mask,
        teacher_rewards=torch.tensor([item.teacher_reward for item in encoded], dtype=torch.float32),
        difficulties=tuple(item.difficulty for item in encoded),
    )


def fingerprint(encoded: Sequence[Encoded]) -> str:
    """A hash of everything the policy will see, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for item in encoded:
        digest.update(repr(item[:-1]).encode())  # but for the label, which the policy does not see
    return digest.hexdigest()


def _padded(sequences: Sequence[list[int]], pad_id: int, left: bool) -> tuple[Tensor, Tensor]:
    width = max(1, *map(len, sequences))
    tokens = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        tokens[row, where] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, where] = True
    return tokens, mask
