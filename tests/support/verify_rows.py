"""Labelled and hostile rows for the verifier.

``verify_rows.jsonl`` and ``verify_hostile.jsonl`` were written by hand and by small programs from mathematics and the
table in ``docs/verifier.md``; a part of the first was written by somebody who had not seen the code.  ``rows/`` has a
file for each kind of answer that public reports on other graders showed, with the kind as its name.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "verify"
BOX = r"so \boxed{%s}."


def rows_of(name):
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def rows_of_kinds():
    for path in sorted((FOLDER / "rows").glob("*.jsonl")):
        for row in rows_of(path.relative_to(FOLDER)):
            yield {"category": path.stem, **row}


ROWS, HOSTILE = [*rows_of("verify_rows.jsonl"), *rows_of_kinds()], rows_of("verify_hostile.jsonl")


def verdicts_on(checker, rows):
    return checker([row["gold"] for row in rows], [row["prediction"] for row in rows])
