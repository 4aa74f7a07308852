"""Schemas: one short class for each data set, which maps the columns of a row to a :class:`Candidate`.

To add one:

1. write a class here (or anywhere that can be imported) with ``columns`` and ``__call__``, as :class:`NuminaCoT` has
   them; :func:`_text`, :func:`_answer` and their neighbours refuse cells of the wrong type by name;
2. copy ``conf/data/numina_cot.yaml`` to ``conf/data/NAME.yaml`` and put the class under ``source.schema`` and the id
   of the data set under ``source.reader.dataset``; then ``hapo data inspect data=NAME`` shows what becomes of its rows;
3. add it with a row to ``SCHEMAS`` in ``tests/data/test_schemas.py``, and all tests of schemas run on it.

A null, whether None or the NaN that tables make of it, is an empty cell.  A value of another type than its column
should have is refused.  Whether a readable row is *wanted* is decided in :mod:`hapo_lit.data.filters`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from hapo_lit.data import columns
from hapo_lit.errors import one_line
from hapo_lit.verify.answers import last_box

VALID = "yes"
"""What NuminaMath-1.5 writes, in upper or lower case, where a problem or a solution is valid."""
CUT_SHORT = "length"
"""The finish reason of a generation that ran out of tokens."""


@dataclass(frozen=True)
class Candidate:
    """A row of a data set in one shape, whatever its columns were called."""

    problem: str
    """The question; never blank."""
    solutions: tuple[str, ...]
    """Teacher texts, the most trusted first; may be empty."""
    answer: str
    """The reference answer, from its column or else from a solution's last ``\\boxed{}``; empty = there is none."""
    source: str = ""
    """Where the row came from, e.g. ``olympiads``."""
    kind: str = ""
    """The question type as the set states it, in lower case: ``proof``, ``mcq``, ``math-word-problem``."""
    invalid: bool = False
    """The set itself says that the problem or its solution is not valid."""
    level: str = ""
    """What the set calls the problem's difficulty or topic; where it is empty, ``source`` labels the problem."""


class BadRow(ValueError):
    """A row that cannot be read; says which column and why."""


class NoColumn(BadRow):
    """A row without a column that it needs; most likely none has it."""


class Schema(Protocol):
    columns: tuple[str, ...]
    """Columns that must exist; their cells may be null unless the problem is read from them."""

    def __call__(self, row: Mapping[str, Any]) -> Candidate:
        """The row in the common shape.

        Raises:
            BadRow: a column is missing, its value has the wrong type, or the problem is blank.
        """


class NuminaCoT:
    """NuminaMath-CoT: there is no answer column; the answer is the solution's last box."""

    columns: tuple[str, ...] = ("problem", "solution")

    def __call__(self, row: Mapping[str, Any]) -> Candidate:
        _require(row, self.columns)
        solution = _text(row["solution"], "solution")
        return Candidate(
            problem=_question(row["problem"], "problem"),
            solutions=_present(solution),
            answer=last_box(solution) or "",
            source=_text(row.get("source"), "source"),
        )


class Numina15:
    """NuminaMath-1.5: the sentinels ``proof`` and ``notfound`` stay in the answer, any flag but "Yes" is invalid."""

    columns: tuple[str, ...] = (
        "problem",
        "solution",
        "answer",
        "question_type",
        "problem_is_valid",
        "solution_is_valid",
    )

    def __call__(self, row: Mapping[str, Any]) -> Candidate:
        _require(row, self.columns)
        solution = _text(row["solution"], "solution")
        flags = [_text(row[column], column) for column in ("problem_is_valid", "solution_is_valid")]
        return Candidate(
            problem=_question(row["problem"], "problem"),
            solutions=_present(solution),
            answer=_answer(row["answer"], "answer") or last_box(solution) or "",
            source=_text(row.get("source"), "source"),
            kind=_text(row["question_type"], "question_type").strip().lower(),
            invalid=any(flag.strip().lower() != VALID for flag in flags),
            level=_text(row.get("problem_type"), "problem_type"),
        )


class OpenR1:
    """OpenR1-Math-220k: several generations a row, at least one of which is right.

    Solutions are the complete generations that math-verify calls right, then those that only the Llama judge calls
    right, then the plain solution.  An empty answer is read from the plain solution and never from a generation, which
    would then be checked against itself.
    """

    columns: tuple[str, ...] = (
        "problem",
        "solution",
        "answer",
        "generations",
        "is_reasoning_complete",
        "correctness_math_verify",
    )

    def __call__(self, row: Mapping[str, Any]) -> Candidate:
        _require(row, self.columns)
        generations = [_text(*item) for item in _items(row["generations"], "generations")]
        size = len(generations)
        complete = _flags(row, "is_reasoning_complete", size)
        proven = _flags(row, "correctness_math_verify", size)
        judged = _flags(row, "correctness_llama", size)
        reasons = [_text(*item) for item in _parallel(row, "finish_reasons", size)]
        usable = [
            index
            for index in range(size)
            if complete[index] and reasons[index] != CUT_SHORT and generations[index].strip()
        ]
        trusted = [index for index in usable if proven[index]]
        trusted += [index for index in usable if judged[index] and not proven[index]]
        solution = _text(row["solution"], "solution")
        return Candidate(
            problem=_question(row["problem"], "problem"),
            solutions=(*(generations[index] for index in trusted), *_present(solution)),
            answer=_answer(row["answer"], "answer") or last_box(solution) or "",
            source=_text(row.get("source"), "source"),
            kind=_text(row.get("question_type"), "question_type").strip().lower(),
            level=_text(row.get("problem_type"), "problem_type"),
        )


class Luffy:
    """Openr1-Math-46k-8192: the last user message is the problem, the messages of ``target`` are the teacher's."""

    columns: tuple[str, ...] = ("prompt", "target", "reward_model")

    def __call__(self, row: Mapping[str, Any]) -> Candidate:
        _require(row, self.columns)
        questions = [(text, name) for role, text, name in _messages(row["prompt"], "prompt") if role == "user"]
        if not questions:
            raise BadRow("column 'prompt': no message with the role 'user'")
        question, question_name = questions[-1]
        targets = [text for role, text, _ in _messages(row["target"], "target") if role == "assistant"]
        solutions = tuple(text for text in targets if text.strip())
        reward_model = row["reward_model"]
        if not isinstance(reward_model, Mapping):
            raise _wrong_type(reward_model, "reward_model", "a mapping")
        if "ground_truth" not in reward_model:
            raise BadRow("column 'reward_model': no field 'ground_truth'")
        answer = _answer(reward_model["ground_truth"], "reward_model.ground_truth")
        return Candidate(
            problem=_question(question, question_name),
            solutions=solutions,
            answer=answer or last_box(solutions[0] if solutions else "") or "",
            source=_text(row.get("data_source"), "data_source"),
        )


class Plain:
    """A user's own rows, with a solution, an answer or both; without an answer it is the solution's last box.

    A text that ends in a line ``#### 72``, as GSM8K's answers do, is a solution with its answer.  A column ``level``,
    of text or numbers, labels difficulty.

    Args:
        problem, solution, answer: names of the columns; None = ``problem`` or ``question``, ``solution``, ``answer``.
    """

    def __init__(self, problem: str | None = None, solution: str | None = None, answer: str | None = None) -> None:
        self.names = {"problem": problem, "solution": solution, "answer": answer}
        self.columns: tuple[str, ...] = tuple(name for name in self.names.values() if name)

    def __call__(self, row: Mapping[str, Any]) -> Candidate:
        problem, solution_column, answer_column = (self._column(role, row) for role in self.names)
        if problem is None:
            raise NoColumn(f"no column 'problem' or 'question'; {columns.offer('problem', 'problem', row)}")
        if solution_column is None and answer_column is None:
            offered = columns.offer("solution", "solution", row)
            raise NoColumn(f"neither a column 'answer' nor a column 'solution'; {offered} (or data.columns.answer)")
        solution = _text(row.get(solution_column), solution_column) if solution_column else ""
        answer = _answer(row.get(answer_column), answer_column) if answer_column else ""
        if split := columns.split_gsm8k(answer):
            solution, answer = solution or answer, split[1]
        if split := columns.split_gsm8k(solution):
            solution, answer = split[0], answer or split[1]
        return Candidate(
            problem=_question(row[problem], problem),
            solutions=_present(solution),
            answer=answer or last_box(solution) or "",
            level=_label(row.get("level")),
        )

    def reads(self, row: Mapping[str, Any]) -> str:
        """From which columns the parts of a row are read, in one line; empty if they have our names and form."""
        names = {role: self._column(role, row) for role in self.names}
        parts = [f"{role} from {name!r}" for role, name in names.items() if name not in (role, None)]
        for name in (names["answer"], names["solution"]):
            if name is not None and isinstance(row[name], str) and columns.split_gsm8k(row[name]):
                parts.append(f"solution and answer from {name!r}, which ends in '#### answer' as GSM8K's do")
                break
        return ", ".join(parts)

    def _column(self, role: str, row: Mapping[str, Any]) -> str | None:
        name = self.names[role]
        if name is not None and name not in row:
            raise NoColumn(f"no column {name!r}; {columns.offer(name, role, row)}")
        return name or columns.found(role, row)


def _require(row: Mapping[str, Any], needed: Sequence[str]) -> None:
    for column in needed:
        if column not in row:
            has = one_line(", ".join(map(str, row)), 200) or "none"
            raise NoColumn(f"no column {column!r}; it needs {', '.join(needed)}, and has {has}")


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _wrong_type(value: object, column: str, expected: str) -> BadRow:
    return BadRow(f"column {column!r}: expected {expected}, found {type(value).__name__}")


def _text(value: object, column: str) -> str:
    """A cell that holds text or nothing; half a surrogate pair is refused, as no tokenizer takes it."""
    if _is_null(value):
        return ""
    if not isinstance(value, str):
        raise _wrong_type(value, column, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"column {column!r}: not valid Unicode at character {error.start}") from error
    return value


def _question(value: object, column: str) -> str:
    text = _text(value, column)
    if not text.strip():
        raise BadRow(f"column {column!r} is empty")
    return text


def _answer(value: object, column: str) -> str:
    """An answer as text; a number is written without an exponent, and a whole number as an integer."""
    if _is_null(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong_type(value, column, "text or a number")
    if isinstance(value, str):
        return _text(value, column).strip()
    try:
        whole = int(value) == value
        return str(int(value)) if whole else format(Decimal(repr(float(value))), "f")
    except (OverflowError, ValueError) as error:
        raise BadRow(f"column {column!r}: a number without a text: {error}") from error


def _label(value: object) -> str:
    """A label that may be a number."""
    return str(value) if isinstance(value, int | float) and not _is_null(value) else _text(value, "level")


def _present(solution: str) -> tuple[str, ...]:
    return (solution,) if solution.strip() else ()


def _items(value: object, column: str) -> list[tuple[Any, str]]:
    """The entries of a list, each with the name that an error gives it."""
    if _is_null(value):
        return []
    if not isinstance(value, list | tuple):
        raise _wrong_type(value, column, "a list")
    return [(item, f"{column}[{index}]") for index, item in enumerate(value)]


def _parallel(row: Mapping[str, Any], column: str, size: int) -> list[tuple[Any, str]]:
    """The entries of a list with one entry for each generation; nulls where there is no list."""
    value = row.get(column)
    items = _items([None] * size if _is_null(value) else value, column)
    if len(items) != size:
        raise BadRow(f"column {column!r}: {len(items)} entries for {size} generations")
    return items


def _flags(row: Mapping[str, Any], column: str, size: int) -> list[bool]:
    """A list of truth values, one for each generation; null is false."""
    items = _parallel(row, column, size)
    for value, name in items:
        if not (_is_null(value) or isinstance(value, bool)):
            raise _wrong_type(value, name, "true or false")
    return [value is True for value, _ in items]


def _messages(value: object, column: str) -> list[tuple[str, str, str]]:
    """``(role, content, name of the content)`` of each message of a conversation."""
    messages = []
    for message, name in _items(value, column):
        if not isinstance(message, Mapping):
            raise _wrong_type(message, name, "a message with role and content")
        role = _text(message.get("role"), f"{name}.role")
        messages.append((role, _text(message.get("content"), f"{name}.content"), f"{name}.content"))
    return messages
