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
from hapo_lit.data.tokens import TextEncoder, too_long
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.types import PromptBatch
from hapo_lit.verify.judging import judged

PROMPT_TOO_LONG = "prompt_too_long"
TEACHER_USABLE, TEACHER_REJECTED = "teacher_usable", "teacher_rejected"
TEACHER_TOO_LONG, TEACHER_ABSENT = "teacher_too_long", "teacher_absent"
TEACHER_STOPS_EARLY = "teacher_stops_early"
FAULTS = (TEACHER_TOO_LONG, TEACHER_STOPS_EARLY)
"""What keeps a solution from being taught: its length, or a stop before its end."""
TEACHER_OUTCOMES = (TEACHER_USABLE, TEACHER_REJECTED, *FAULTS, TEACHER_ABSENT)
"""What may become of a problem's teacher."""
OUTCOMES = (PROMPT_TOO_LONG, *TEACHER_OUTCOMES)
"""What may become of a training problem: each has exactly one of these outcomes."""
TEACHER_READS_OTHERWISE = "teacher_reads_otherwise"
"""Counted besides: the teacher's tokens, decoded and encoded again, are others (it has characters without a token)."""
READS_OTHERWISE = "teachers read otherwise once they are tokens: the tokenizer does not know all of their text"
"""What is said of these after their number."""


PADDING = 0
"""The id in places that a mask hides: every model has an embedding for it, and not always one for its tokenizer's
padding token."""


class EncodedProblem(NamedTuple):
    """A problem as token ids."""

    prompt_id: int
    tokens: list[int]
    answer: str
    teacher_tokens: list[int]
    """The solution and its end-of-sequence token; empty = there is no teacher, or none that can be taught."""
    teacher_reward: float
    """What the teacher's solution earns; 0 where it must not be used."""
    difficulty: str = ""
    """The problem's label."""
    teacher_outcome: str = ""
    """Which of :data:`TEACHER_OUTCOMES` the teacher had."""
    problem: str = ""
    """The problem's text."""

    @property
    def teacher_usable(self) -> bool:
        """Whether the teacher check accepts the solution."""
        return self.teacher_outcome == TEACHER_USABLE


def encode(
    problems: Sequence[Problem],
    tokenizer: Any,
    template: Template,
    teacher_check: TeacherCheck,
    max_prompt_tokens: int,
    max_response_tokens: int,
    tally: Counter[str],
    stop_ids: Sequence[int] = (),
) -> list[EncodedProblem]:
    """Tokenise problems and judge their teachers.

    A problem whose prompt is longer than ``max_prompt_tokens`` is dropped.  A solution longer than
    ``max_response_tokens`` is not used, since the policy could never write it, nor is one with another of the
    :data:`FAULTS`.  Of several solutions that are left, the teacher is the longest one that the check accepts; it ends
    with exactly one end-of-sequence token.  ``tally`` counts the problems by their :data:`OUTCOMES`, and
    those of :data:`TEACHER_READS_OTHERWISE`.  ``stop_ids`` are the policy's other stops.

    Raises:
        ValueError: there is no problem, or no prompt fits.
    """
    if not problems:
        raise ValueError("there are no problems: look at the sizes or files under data.source")
    encoder = TextEncoder(tokenizer, template, stop_ids)
    prompts = encoder.prompts([problem.problem for problem in problems])
    fitting = [index for index, tokens in enumerate(prompts) if len(tokens) <= max_prompt_tokens]
    if len(fitting) < len(problems):
        tally[PROMPT_TOO_LONG] += len(problems) - len(fitting)
    if not fitting:
        raise ValueError(too_long([len(tokens) for tokens in prompts], tokenizer, max_prompt_tokens))
    kept = [problems[index] for index in fitting]
    teachers = _teachers(kept, encoder, teacher_check, max_response_tokens, tally)
    return [
        EncodedProblem(
            prompt_id=problem.prompt_id,
            tokens=prompts[index],
            answer=problem.answer,
            teacher_tokens=tokens,
            teacher_reward=reward,
            difficulty=problem.difficulty,
            teacher_outcome=outcome,
            problem=problem.problem,
        )
        for index, problem, (tokens, reward, outcome) in zip(fitting, kept, teachers, strict=True)
    ]


def _teachers(
    problems: Sequence[Problem],
    encoder: TextEncoder,
    teacher_check: TeacherCheck,
    max_response_tokens: int,
    tally: Counter[str],
) -> list[tuple[list[int], float, str]]:
    """Each problem's teacher as tokens, with its reward and its outcome.

    All problems' longest solutions are checked in one call, then the next longest of those that were rejected.
    """
    solutions = [
        [encoder.without_end(text) for text in (problem.solution, *problem.others) if text] for problem in problems
    ]
    encoded = iter(_responses([text for texts in solutions for text in texts], encoder, max_response_tokens))
    teachers: list[tuple[list[int], float, str]] = [([], 0.0, TEACHER_ABSENT)] * len(problems)
    unchecked: list[list[tuple[list[int], str]]] = []
    """For each problem, the solutions that can be taught and were not checked yet, the longest last."""
    for index, texts in enumerate(solutions):
        responses = [(*next(encoded), text) for text in texts]
        good = [(tokens, text) for tokens, fault, text in responses if not fault]
        unchecked.append(sorted(good, key=lambda solution: len(solution[0])))
        if responses and not good:
            teachers[index] = ([], 0.0, min((fault for _, fault, _ in responses), key=FAULTS.index))
    while indices := [index for index, left in enumerate(unchecked) if left]:
        candidates = [unchecked[index].pop() for index in indices]
        solved = [replace(problems[index], solution=text) for index, (_, text) in zip(indices, candidates, strict=True)]
        judgement = judged(teacher_check, teacher_check(solved), len(solved))
        verdicts = zip(judgement.rewards.tolist(), judgement.successes.tolist(), strict=True)
        for index, (tokens, _), (reward, usable) in zip(indices, candidates, verdicts, strict=True):
            if usable:
                teachers[index] = (tokens, reward, TEACHER_USABLE)
                unchecked[index].clear()
            elif not teachers[index][0]:
                teachers[index] = (tokens, 0.0, TEACHER_REJECTED)
    tally.update(outcome for *_, outcome in teachers)
    taught = [tokens[:-1] for tokens, *_ in teachers if tokens]
    if changed := encoder.reads_back(taught).count(False):
        tally[TEACHER_READS_OTHERWISE] += changed
    return teachers


def _responses(texts: list[str], encoder: TextEncoder, limit: int) -> list[tuple[list[int], str]]:
    """Token ids of solutions with their end, and what keeps each from being taught (one of :data:`FAULTS`, or "")."""
    found = []
    for tokens in encoder.responses(texts):
        fault = ""
        if len(tokens) + 1 > limit:
            fault = TEACHER_TOO_LONG
        elif not encoder.stop_ids.isdisjoint(tokens):
            fault = TEACHER_STOPS_EARLY
        found.append(([*tokens, encoder.end_id], fault))
    return found


def collate(encoded: Sequence[EncodedProblem]) -> PromptBatch:
    """Pad prompts on the left and teachers on the right, with :data:`PADDING`."""
    tokens, mask = _padded([item.tokens for item in encoded], left=True)
    teacher_tokens, teacher_mask = _padded([item.teacher_tokens for item in encoded], left=False)
    return PromptBatch(
        prompt_ids=torch.tensor([item.prompt_id for item in encoded]),
        tokens=tokens,
        mask=mask,
        answers=tuple(item.answer for item in encoded),
        teacher_tokens=teacher_tokens,
        teacher_mask=teacher_mask,
        teacher_rewards=torch.tensor([item.teacher_reward for item in encoded], dtype=torch.float32),
        teacher_usable=torch.tensor([item.teacher_usable for item in encoded], dtype=torch.bool),
        difficulties=tuple(item.difficulty for item in encoded),
        problems=tuple(item.problem for item in encoded),
    )


def fingerprint(encoded: Sequence[EncodedProblem]) -> str:
    """A hash of everything the policy will see, in order."""
    # without the labels, which the policy does not see
    return stable_hash("".join(repr(item[:5]) for item in encoded)).hex()


def _padded(sequences: Sequence[list[int]], left: bool) -> tuple[Tensor, Tensor]:
    width = max(1, *map(len, sequences))
    tokens = torch.full((len(sequences), width), PADDING)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        tokens[row, where] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, where] = True
    return tokens, mask
