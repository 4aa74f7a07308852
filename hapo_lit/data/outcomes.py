"""What may become of a row, besides being dropped for a filter's reason, and how that is said."""

from __future__ import annotations

from collections import Counter

KEPT, BAD_ROW, DUPLICATE, HELD_OUT = "kept", "bad_row", "duplicate", "held_out"


def tally_line(tally: Counter[str]) -> str:
    """What became of the rows, in one line, the most frequent outcome first."""
    return ", ".join(f"{count:,} {name}" for name, count in tally.most_common() if count) or "there are no rows"


def nothing_left(tally: Counter[str]) -> str:
    """That no row is left, and what became of them."""
    return f"no row is left to train on: {tally_line(tally)}"
