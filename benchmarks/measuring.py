"""Claims, what was measured for them, and their verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.processes_apart import Numbers

Side = Callable[[bool], Numbers]
"""Measures one side once.  Its argument: True = as little as shows that it runs."""
Compared = Callable[[Numbers, Numbers], float]
"""The number that a goal bounds, from what ours and the peer measured in a round."""
NOTHING: Numbers = {}
"""What is measured of a peer that there is none of."""


@dataclass(frozen=True)
class Claim:
    """A sentence about speed or memory that a number decides.

    Args:
        name: of the row.
        what: is measured, with its sizes.
        number: what the goal bounds, in words.
        compared: that number.
        goal: its bound.
        at_least: True = it must not be below the goal, False = not above.
        quantity: what the columns of the two sides show.
        unit: of that.
    """

    name: str
    what: str
    number: str
    compared: Compared
    goal: float
    at_least: bool = False
    quantity: str = "cpu"
    unit: str = "CPU s"

    @property
    def bound(self) -> str:
        """The goal as text."""
        return f"{self.number} {'≥' if self.at_least else '≤'} {written(self.goal)}"

    def holds(self, number: float) -> bool:
        """Whether a number is within the goal; the goal itself is."""
        return number >= self.goal if self.at_least else number <= self.goal


@dataclass(frozen=True)
class Case:
    """What is measured together for one or more claims.

    Args:
        name: as it is chosen on the command line.
        ours, peer: the two sides; peer = None: the goal is absolute.
        beside: the peer, with the names of the packages whose versions it has.
        packages: these names.
        claims: what is claimed of it.
        most: rounds at most, for what takes minutes.
        drawn: the name of a figure that is drawn beside the table, and what draws it from our sides of all rounds.
    """

    name: str
    claims: Sequence[Claim]
    ours: Side
    peer: Side | None = None
    beside: str = "none"
    packages: Sequence[str] = ()
    most: int | None = None
    drawn: tuple[str, Callable[[Sequence[Numbers], Any], None]] | None = None


@dataclass(frozen=True)
class Row:
    """What was found for a claim: a line of the table, and of the file that keeps them."""

    name: str
    what: str
    bound: str
    beside: str
    rounds: int
    ours: str = ""
    theirs: str = ""
    number: float | None = None
    least: float | None = None
    most: float | None = None
    verdict: str = "failed"
    error: str = ""
    date: str = ""
    revision: str = ""
    machine: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measured(case: Case, rounds: int, quick: bool, each_side: Callable[[], None]) -> list[tuple[Numbers, Numbers]]:
    """Rounds of a case: ours, then the peer, again and again.

    Args:
        case: what to measure.
        rounds: how often, at most.
        quick: True = as little of each as shows that it runs.
        each_side: called when a side of a round is done.
    """
    found = []
    for _ in range(rounds_of(case, rounds)):
        ours = case.ours(quick)
        each_side()
        theirs = case.peer(quick) if case.peer else NOTHING
        if case.peer:
            each_side()
        found.append((ours, theirs))
    return found


def rounds_of(case: Case, rounds: int) -> int:
    """How many rounds of a case are measured where ``rounds`` are wanted."""
    return rounds if case.most is None else min(rounds, case.most)


def row(claim: Claim, case: Case, rounds: Sequence[tuple[Numbers, Numbers]], facts: Mapping[str, str]) -> Row:
    """The claim's row: the median over the rounds decides."""
    numbers = [claim.compared(ours, theirs) for ours, theirs in rounds]
    middle = median(numbers)
    return Row(
        **_stated(claim, case, facts),
        rounds=len(rounds),
        ours=side(claim, [ours for ours, _ in rounds]),
        theirs=side(claim, [theirs for _, theirs in rounds]),
        number=middle,
        least=min(numbers),
        most=max(numbers),
        verdict="met" if claim.holds(middle) else "not met",
    )


def failed_row(claim: Claim, case: Case, error: Exception, facts: Mapping[str, str]) -> Row:
    """The row of a claim whose measurement ended with an error."""
    text = " ".join(str(error).split()) or type(error).__name__
    return Row(**_stated(claim, case, facts), rounds=0, error=text[-300:])


def _stated(claim: Claim, case: Case, facts: Mapping[str, str]) -> dict[str, Any]:
    return {"name": claim.name, "what": claim.what, "bound": claim.bound, "beside": case.beside, **facts}


def side(claim: Claim, found: Sequence[Numbers]) -> str:
    """The median of one side, with that of its wall time where CPU time is what counts."""
    values = [numbers[claim.quantity] for numbers in found if claim.quantity in numbers]
    if not values:
        return "-"
    text = f"{written(median(values))} {claim.unit}"
    walls = [numbers["wall"] for numbers in found if "wall" in numbers]
    return f"{text} ({written(median(walls))} s wall)" if claim.quantity == "cpu" and walls else text


def written(number: float) -> str:
    """Three digits, or all of a larger whole number."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def seconds(work: Callable[[], object]) -> Numbers:
    """CPU and wall seconds of a call in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


# -- what a goal bounds ------------------------------------------------------------------------------------------------


def ratio(quantity: str = "cpu") -> Compared:
    """Ours / the peer's."""
    return lambda ours, theirs: ours[quantity] / theirs[quantity]


def times_faster(quantity: str = "cpu") -> Compared:
    """The peer's / ours."""
    return lambda ours, theirs: theirs[quantity] / ours[quantity]


def excess(quantity: str = "cpu") -> Compared:
    """Ours - the peer's."""
    return lambda ours, theirs: ours[quantity] - theirs[quantity]


def alone(quantity: str = "cpu") -> Compared:
    """Ours."""
    return lambda ours, _: ours[quantity]
