"""The embedded default: column arithmetic with worked solutions, in NuminaMath's fields.

``Compute 7547-2293.`` is solved digit by digit from the right, each column as *top, bottom, incoming borrow =
outgoing borrow, digit*::

    7-3-0=04;4-9-0=15;5-2-1=02;7-2-0=05;\\boxed{5254}

A policy that can subtract up to three digits and add up to five has both skills that five-digit subtraction needs,
but it samples a right answer about once in a thousand tries.  All answers of nearly every group are wrong, and GRPO has
no gradient.  The teacher is another program, which makes mistakes of a chosen kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hapo_lit.data.problems import Problem
from hapo_lit.numerics.ranges import SettingError, check_count, check_not_negative, check_seed, check_share

VERSION = 2
"""To be raised when the same arguments give other problems or tokens; part of the base policy's fingerprint."""

HELDOUT_SHARE = 16
"""One problem in this many is held out; its hash decides, so that source, seed and teacher do not matter."""

MOST_PROBLEMS = 800_000
"""They are made in memory, in some ten thousandths of a second each."""
MOST_DIGITS = 18
"""Numbers fit into 64 bits."""
TRIES = 100
"""A source gives up after this many samples for every problem that it was asked for."""


class TeacherErrors(Protocol):
    """The mistakes that a teacher makes; ``generator`` is the problem's own."""

    def has_solution(self, generator: np.random.Generator) -> bool:
        """Whether the teacher has a solution to this problem."""

    def column(self, generator: np.random.Generator, top: int, carry: int, digit: int) -> tuple[int, int]:
        """``(outgoing carry, digit)`` as the teacher writes them, given the right ones and the top digit."""


class NoErrors:
    """A teacher that is always right."""

    def has_solution(self, generator: np.random.Generator) -> bool:
        return True

    def column(self, generator: np.random.Generator, top: int, carry: int, digit: int) -> tuple[int, int]:
        return carry, digit


class IndependentErrors(NoErrors):
    """Each column's digit is off by one with probability ``rate``."""

    def __init__(self, rate: float) -> None:
        self.rate = check_share("rate", rate)

    def column(self, generator: np.random.Generator, top: int, carry: int, digit: int) -> tuple[int, int]:
        slips, up = generator.random() < self.rate, generator.random() < 0.5
        return carry, (digit + (1 if up else -1)) % 10 if slips else digit


class SystematicErrors(NoErrors):
    """Forgets the outgoing borrow or carry wherever the top digit is in ``when_top``."""

    def __init__(self, when_top: Sequence[int] = (0, 1)) -> None:
        self.when_top = frozenset(when_top)

    def column(self, generator: np.random.Generator, top: int, carry: int, digit: int) -> tuple[int, int]:
        return (0 if top in self.when_top else carry), digit


class SparseSolutions:
    """Only a ``share`` of the problems has a solution; these solutions contain ``errors``."""

    def __init__(self, share: float, errors: TeacherErrors) -> None:
        self.share, self.errors = check_share("share", share), errors

    def has_solution(self, generator: np.random.Generator) -> bool:
        return generator.random() < self.share and self.errors.has_solution(generator)

    def column(self, generator: np.random.Generator, top: int, carry: int, digit: int) -> tuple[int, int]:
        return self.errors.column(generator, top, carry, digit)


class Level:
    """A difficulty: one operation on numbers of ``digits`` digits, sampled with a relative ``weight``."""

    def __init__(self, operation: str, digits: int, weight: float = 1.0) -> None:
        if operation not in ("+", "-"):
            raise SettingError("operation", f"must be '+' or '-', got {operation!r}")
        self.operation, self.digits = operation, check_count("digits", digits, most=MOST_DIGITS)
        self.weight = check_not_negative("weight", weight)

    @property
    def label(self) -> str:
        """The label under which rewards of its problems are logged."""
        return f"{self.digits}-digit"

    def sample(self, generator: np.random.Generator) -> tuple[int, str, int]:
        """``(first number, operation, second number)`` of a problem; a difference is not negative."""
        low = 10 ** (self.digits - 1) if self.digits > 1 else 0
        first, second = (int(value) for value in generator.integers(low, 10**self.digits, 2))
        if self.operation == "-":
            first, second = max(first, second), min(first, second)
        return first, self.operation, second


class Arithmetic:
    """A seeded source of column arithmetic, as the docstring of this module describes it.

    Args:
        levels: the difficulties to sample from.
        train_size, heldout_size: how many problems.
        errors: the teacher's mistakes, in training solutions only.
        seed: of the problems and of the mistakes.
        repeats: True = training problems may occur more than once, for levels with few distinct problems.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        train_size: int,
        heldout_size: int,
        errors: TeacherErrors,
        seed: int,
        repeats: bool = False,
    ) -> None:
        self.levels, self.errors, self.repeats = list(levels), errors, repeats
        if not any(level.weight for level in self.levels):
            raise SettingError("levels", "must have one with a weight above 0")
        self.seed = check_seed(seed)
        self.train_size = check_count("train_size", train_size, 0, MOST_PROBLEMS)
        self.heldout_size = check_count("heldout_size", heldout_size, 0, MOST_PROBLEMS // HELDOUT_SHARE)
        self._check_distinct()

    def _check_distinct(self) -> None:
        """Raise ``ValueError`` if there are too few problems, before any is made."""
        levels = {(level.operation, level.digits) for level in self.levels if level.weight}
        total = sum(_distinct(*level) for level in levels)
        for name, size, share in (
            ("train_size", self.train_size, 1 - 1 / HELDOUT_SHARE),
            ("heldout_size", self.heldout_size, 1 / HELDOUT_SHARE),
        ):
            most = total * share + 5 * (total * share * (1 - share)) ** 0.5  # a hash decides which side each is on
            if size > most and not (self.repeats and name == "train_size"):
                raise SettingError(
                    name,
                    f"is {size:,}, and these levels have about {total * share:,.0f} distinct problems of that kind: "
                    f"ask for fewer, or set more digits",
                )

    def train(self) -> list[Problem]:
        return self._problems(self.train_size, stream=0, held_out=False, errors=self.errors)

    def heldout(self) -> list[Problem]:
        return self._problems(self.heldout_size, stream=1, held_out=True, errors=NoErrors())

    def report(self) -> dict[str, int]:
        return {}

    def _problems(self, size: int, stream: int, held_out: bool, errors: TeacherErrors) -> list[Problem]:
        """The first ``size`` problems of a stream that are on this side of the split."""
        problems: list[Problem] = []
        known: set[str] = set()
        for tries, problem in enumerate(self._sampled(stream, errors)):
            if len(problems) == size:
                return problems
            if tries > TRIES * (size + 100):
                raise ValueError(f"these levels have no {size} distinct problems; ask for fewer or set repeats: true")
            on_this_side = (problem.prompt_id % HELDOUT_SHARE == 0) == held_out
            if on_this_side and (self.repeats or problem.problem not in known):
                known.add(problem.problem)
                problems.append(problem)
        raise AssertionError("the stream of samples never ends")

    def _sampled(self, stream: int, errors: TeacherErrors) -> Iterator[Problem]:
        """Problems for ever, a function of the seed and the stream's number."""
        generator = np.random.default_rng((self.seed, stream))
        weights = np.array([level.weight for level in self.levels])
        shares = weights / weights.sum()
        while True:
            level = self.levels[generator.choice(len(self.levels), p=shares)]
            problem = worked_problem(*level.sample(generator), errors=errors, seed=self.seed)
            yield replace(problem, difficulty=level.label)


def _distinct(operation: str, digits: int) -> int:
    """How many problems a level has."""
    numbers: int = 10**digits - (10 ** (digits - 1) if digits > 1 else 0)
    return numbers**2 if operation == "+" else numbers * (numbers + 1) // 2


def worked_problem(first: int, operation: str, second: int, errors: TeacherErrors, seed: int = 0) -> Problem:
    """The problem ``first operation second`` with a worked solution that contains ``errors``."""
    question = f"Compute {first}{operation}{second}."
    right = first - second if operation == "-" else first + second
    problem = Problem(question, "", str(right))
    generator = np.random.default_rng((seed, problem.prompt_id))
    if not errors.has_solution(generator):
        return problem
    width = max(len(str(first)), len(str(second)))
    columns, digits, carry = [], [], 0
    for top, bottom in zip(_digits(first, width), _digits(second, width), strict=True):
        value = top - bottom - carry if operation == "-" else top + bottom + carry
        outgoing, digit = errors.column(generator, top, int(not 0 <= value < 10), value % 10)
        columns.append(f"{top}{operation}{bottom}{operation}{carry}={outgoing}{digit};")
        digits.append(digit)
        carry = outgoing
    if operation == "+":
        digits.append(carry)
    total = sum(digit * 10**place for place, digit in enumerate(digits))
    return Problem(question, "".join(columns) + rf"\boxed{{{total}}}", str(right))


def _digits(value: int, width: int) -> list[int]:
    """Decimal digits from the right, padded with zeros."""
    return [value // 10**place % 10 for place in range(width)]


def arithmetic_tokenizer() -> PreTrainedTokenizerFast:
    """24 tokens: digits one by one, operators, and ``Compute`` and ``\\boxed{`` as one token each.

    It is a byte-level BPE without merges, with the two words as added tokens: transformers reads a tokenizer beside a
    Qwen2 model with Qwen2's own class, which gives the same ids for one of this kind.
    """
    characters, words = [*"0123456789", *"+-=;.} ", "\n"], ["Compute", r"\boxed{"]
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    as_bytes = {" ": "Ġ", "\n": "Ċ"}  # how a byte-level tokenizer writes them
    pieces = [*special.values(), *(as_bytes.get(character, character) for character in characters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
