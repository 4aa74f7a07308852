"""Problems are encoded as token ids, and encoded problems are padded to batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hapo_lit.data.problems import Problem
from hapo_lit.data.teachers import TeacherCheck
from hapo_lit.data.templates import Template
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.types import PromptBatch

PROMPT_TOO_LONG = "prompt_too_long"
TEACHER_USABLE, TEACHER_REJECTED = "teacher_usable", "teacher_rejected"
TEACHER_TOO_LONG, TEACHER_ABSENT = "teacher_too_long", "teacher_absent"
TEACHER_OUTCOMES = (TEACHER_USABLE, TEACHER_REJECTED, TEACHER_TOO_LONG, TEACHER_ABSENT)
"""What may become of a problem's teacher."""
OUTCOMES = (PROMPT_TOO_LONG, *TEACHER_OUTCOMES)
"""What may become of a training problem: each has exactly one of these outcomes."""


class EncodedProblem(NamedTuple):
    """A problem as token ids."""

    prompt_id: int
    tokens: list[int]
    answer: str
    teacher_tokens: list[int]
    """The solution and its end-of-sequence token; empty = there is no teacher, or none that fits."""
    teacher_reward: float
    """The reward of the teacher's solution; 0 = it must not be used."""
    difficulty: str = ""
    """The problem's label."""

    def teacher_outcome(self, has_solution: bool) -> str:
        """Which of :data:`TEACHER_OUTCOMES` the teacher had; ``has_solution`` = the problem came with one."""
        if self.teacher_tokens:
            return TEACHER_USABLE if self.teacher_reward > 0 else TEACHER_REJECTED
        return TEACHER_TOO_LONG if has_solution else TEACHER_ABSENT


def encode(
    problems: Sequence[Problem],
    tokenizer: Any,
    template: Template,
    teacher_check: TeacherCheck,
    max_prompt_tokens: int,
    max_response_tokens: int,
    tally: Counter[str],
) -> list[EncodedProblem]:
    """Tokenise problems and judge their teachers.

    A problem whose prompt is longer than ``max_prompt_tokens`` is dropped.  A solution longer than
    ``max_response_tokens`` is not used, since the policy could never write it.  Of several solutions that fit, the
    teacher is the longest one that the check accepts.  ``tally`` counts the problems by their :data:`OUTCOMES`.

    Raises:
        ValueError: there is no problem, or no prompt fits.
    """
    if not problems:
        raise ValueError("there are no problems: look at the sizes or files under data.source")
    prompts = prompt_tokens(problems, tokenizer, template)
    fitting = [index for index, tokens in enumerate(prompts) if len(tokens) <= max_prompt_tokens]
    if len(fitting) < len(problems):
        tally[PROMPT_TOO_LONG] += len(problems) - len(fitting)
    if not fitting:
        raise ValueError(f"all {len(problems)} prompts are longer than {max_prompt_tokens} tokens; raise the limit")
    kept = [problems[index] for index in fitting]
    teachers = _teachers(kept, tokenizer, template, teacher_check, max_response_tokens, tally)
    return [
        EncodedProblem(problem.prompt_id, prompts[index], problem.answer, *teacher, problem.difficulty)
        for index, problem, teacher in zip(fitting, kept, teachers, strict=True)
    ]


def prompt_tokens(problems: Sequence[Problem], tokenizer: Any, template: Template) -> list[list[int]]:
    """Token ids of the prompts."""
    texts = [template.prompt(tokenizer, problem.problem) for problem in problems]
    return token_ids(tokenizer, texts, template.special_tokens)


def token_ids(tokenizer: Any, texts: list[str], special_tokens: bool) -> list[list[int]]:
    """Token ids of texts.  Fast tokenizers are called without offsets, a quarter of the work."""
    if getattr(tokenizer, "is_fast", False):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special_tokens)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=special_tokens)["input_ids"] if texts else []
    return ids


def fits(problems: Sequence[Problem], tokenizer: Any, template: Template, max_prompt_tokens: int) -> list[bool]:
    """Which prompts are within the limit.  Most are not tokenised: a prompt has no more tokens than bytes."""
    texts = [template.prompt(tokenizer, problem.problem) for problem in problems]
    spare = 8 * template.special_tokens  # room for the special tokens that a tokenizer may add
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
    """Each problem's teacher as tokens with its reward.

    All problems' longest solutions are checked in one call, then the next longest of those that were rejected.
    """
    solutions = [[text for text in (problem.solution, *problem.others) if text] for problem in problems]
    responses = [template.response(text) for texts in solutions for text in texts]
    ids = iter(token_ids(tokenizer, responses, special_tokens=False))
    teachers: list[tuple[list[int], float]] = [([], 0.0)] * len(problems)
    unchecked: list[list[tuple[list[int], str]]] = []
    """For each problem, the solutions that fit and were not checked yet, the longest last."""
    outcomes = [TEACHER_ABSENT] * len(problems)
    for index, texts in enumerate(solutions):
        encoded = [([*next(ids), tokenizer.eos_token_id], text) for text in texts]
        fitting = [(tokens, text) for tokens, text in encoded if len(tokens) <= max_response_tokens]
        unchecked.append(sorted(fitting, key=lambda solution: len(solution[0])))
        if texts:
            outcomes[index] = TEACHER_REJECTED if fitting else TEACHER_TOO_LONG
    while indices := [index for index, left in enumerate(unchecked) if left]:
        candidates = [unchecked[index].pop() for index in indices]
        rewards = teacher_check(
            [replace(problems[index], solution=text) for index, (_, text) in zip(indices, candidates, strict=True)]
        )
        for index, (tokens, _), reward in zip(indices, candidates, rewards, strict=True):
            if reward > 0:
                teachers[index], outcomes[index] = (tokens, reward), TEACHER_USABLE
                unchecked[index].clear()
            elif not teachers[index][0]:
                teachers[index] = (tokens, 0.0)
    tally.update(outcomes)
    return teachers


def collate(encoded: Sequence[EncodedProblem], pad_id: int) -> PromptBatch:
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


def fingerprint(encoded: Sequence[EncodedProblem]) -> str:
    """A hash of everything the policy will see, in order."""
    # without the label, which the policy does not see
    return stable_hash("".join(repr(item[:-1]) for item in encoded)).hex()


def _padded(sequences: Sequence[list[int]], pad_id: int, left: bool) -> tuple[Tensor, Tensor]:
    width = max(1, *map(len, sequences))
    tokens = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        tokens[row, where] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, where] = True
    return tokens, mask
