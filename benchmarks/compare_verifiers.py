"""How many labelled rows of the tests the verifier and math-verify decide as labelled.

    python benchmarks/compare_verifiers.py

math-verify is asked twice: with the answers that our search found in the responses, in a box, and with the responses
as they are, which its own search looks through.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.progress import track

from hapo_lit.verify import Checker
from hapo_lit.verify.algebra.reading import repair_percent_signs

TESTS = Path(__file__).parent.parent / "tests/verify"


def rows() -> Iterator[dict[str, object]]:
    for path in (TESTS / "verify_rows.jsonl", *sorted((TESTS / "rows").glob("*.jsonl"))):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def math_verify() -> Callable[[str, str], bool]:
    """Whether math-verify calls a response right."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)

    repair_percent_signs()  # of the parser that both use

    def right(gold: str, response: str) -> bool:
        reference = gold if "boxed" in gold else rf"\boxed{{{gold}}}"
        return bool(verify(parse(reference, [LatexExtractionConfig()]), parse(response)))

    return right


def main() -> None:
    labelled = list(rows())
    golds, responses = ([str(row[name]) for row in labelled] for name in ("gold", "prediction"))
    expected = [bool(row["expected"]) for row in labelled]
    checker = Checker(workers=2)
    ours = checker(golds, responses)
    checker.close()
    theirs = math_verify()
    found = [rf"$\boxed{{{verdict.extracted}}}$" if verdict.extracted else "" for verdict in ours]
    verdicts = {
        "hapo_lit": [verdict.correct for verdict in ours],
        "math-verify, our answers": [theirs(*pair) for pair in track(list(zip(golds, found, strict=True)))],
        "math-verify, its own": [theirs(*pair) for pair in track(list(zip(golds, responses, strict=True)))],
    }
    for name, rights in verdicts.items():
        pairs = list(zip(rights, expected, strict=True))
        share = sum(right == wanted for right, wanted in pairs) / len(pairs)
        wrong = sum(right and not wanted for right, wanted in pairs)
        print(f"{name}: {100 * share:.1f} % of {len(pairs):,} rows as labelled, {wrong} wrong answers called right")


if __name__ == "__main__":
    main()
