"""How a user's own rows name their columns, and GSM8K's form of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hapo_lit.errors import nearest, one_line

READ = {"problem": ("problem", "question"), "solution": ("solution",), "answer": ("answer",)}
"""What a column is called where no name is given, the first that a row has."""
LIKELY = {
    "problem": ("question", "problem", "prompt", "query", "instruction", "input"),
    "solution": ("rationale", "reasoning", "explanation", "response", "output", "completion", "generation", "cot"),
    "answer": ("final_answer", "expected_answer", "ground_truth", "target", "label", "result", "gold"),
}
"""Names that are offered where a column is not found."""

_FINAL = re.compile(r"(?P<steps>.*?)\s*^#### *(?P<answer>[^\n]+?)\s*\Z", re.DOTALL | re.MULTILINE)
_CALCULATION = re.compile(r"<<[^<>]{0,200}>>")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def found(role: str, columns: Iterable[str]) -> str | None:
    """The column of a row that has this role by its name, or None."""
    return next((name for name in READ[role] if name in columns), None)


def offer(name: str, role: str, columns: Iterable[str]) -> str:
    """What a row has in place of a column, and the setting that names the likely one."""
    names = list(columns)
    free = [column for column in names if column not in ("problem", "solution", "answer")]
    likely = next((column for word in LIKELY[role] for column in free if word in column.lower()), None)
    near = nearest(name, names)
    close = near.partition("'")[2].partition("'")[0] or likely or "NAME"
    return f"it has {one_line(', '.join(map(str, names)), 200) or 'none'}; rename with data.columns.{role}={close}"


def split_gsm8k(text: str) -> tuple[str, str] | None:
    """``(solution, answer)`` of a text that ends in a line ``#### 72``, as GSM8K has it; None for any other.

    The solution loses its calculator's notes (``<<48/2=24>>``) and ends in a box, as a policy is asked to.
    """
    match = _FINAL.match(text)
    if match is None:
        return None
    answer = _GROUPED.sub("", match["answer"])
    steps = _CALCULATION.sub("", match["steps"]).strip()
    return (f"{steps}\nThe answer is \\boxed{{{answer}}}" if steps else ""), answer
