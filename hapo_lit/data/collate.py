"""Problems -> token ids -> padded batches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hapo_lit.data.problems import Problem
from hapo_lit.data.prompts import Template
from hapo_lit.data.teachers import TeacherCheck
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
    policy could never write it.  ``tally`` counts which of the :data:`FATES` each problem met.

    Raises:
        ValueError: there is no problem, or no prompt fits.
    """
    if not problems:
        raise ValueError("there are no problems: look at the sizes or files under data.source")
    encoded = []
    for problem, reward in zip(problems, teacher_check(problems), strict=True):
        tokens = template.encode(tokenizer, problem.problem)
        if len(tokens) > max_prompt_tokens:
            tally[PROMPT_LONG] += 1
            continue
        teacher: list[int] = []
        if problem.solution:
            teacher = [*tokenizer(problem.solution, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        fits = len(teacher) <= max_response_tokens
        tally[_fate(teacher, fits, reward)] += 1
        if not fits:
            teacher = []
        encoded.append(Encoded(problem.prompt_id, tokens, problem.answer, teacher, reward if teacher else 0.0))
    if not encoded:
        raise ValueError(f"all {len(problems)} prompts are longer than {max_prompt_tokens} tokens; raise the limit")
    return encoded


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
    )


def fingerprint(encoded: Sequence[Encoded]) -> str:
    """A hash of everything the policy will see, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for item in encoded:
        digest.update(repr(item).encode())
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


def _fate(teacher: list[int], fits: bool, reward: float) -> str:
    if not teacher:
        return TEACHER_ABSENT
    if not fits:
        return TEACHER_LONG
    return TEACHER_USABLE if reward > 0 else TEACHER_REJECTED
