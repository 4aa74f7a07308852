"""No text that a model wrote is ever executed."""

import re
from pathlib import Path

import pytest
from support.verify_rows import BOX

import hapo_lit


def test_no_text_is_ever_evaluated():
    """The functions of SymPy and Python that execute a string must not occur in the package."""
    banned = re.compile(r"\b(sympify|parse_expr|simplify|nsimplify|exec|eval|compile|pickle\.loads|literal_eval)\(")
    allowed = {("worker.py", "pickle.loads(")}  # what the parent sent, never what a worker or a model wrote
    for path in Path(hapo_lit.__file__).parent.rglob("*.py"):
        for line in path.read_text().splitlines():
            found = banned.search(re.sub(r"\.eval\(\)|(re|torch|layer)\.compile\(", "", line))
            assert not found or (path.name, found.group()) in allowed, f"{path}: {line}"


PAYLOAD = "__import__('pathlib').Path('MARK').touch()"


@pytest.mark.parametrize(
    "form",
    [
        "%s", r"\text{%s}", r"\mathrm{%s}", "1:%s", "%s_2", r"\operatorname{%s}", r"\frac{%s}{2}", r"\frac{1}{%s}",
        r"\sqrt{%s}", "x_{%s}", "x^{%s}", r"\{1, %s\}", "(%s, 1)", "[%s, 2)", r"\begin{pmatrix}%s&1\end{pmatrix}",
        "x=%s", "x<%s", "%s=x", "1, %s", "1+%s", "%s+1", "%s!", r"\log_{%s} 2", r"%s\%%", r"5\text{ %s}", r"\$%s",
        r"\left|%s\right|", r"\sum_{k=1}^{%s}k", r"\binom{%s}{2}", "f(%s)", r"\begin{pmatrix}1\end{pmatrix}+%s",
        r"%s \approx 1", r"x \in %s",
    ],
)  # fmt: skip
def test_a_payload_in_any_position_executes_nothing(checker, worker_folder, tmp_path, monkeypatch, form):
    """Neither here, where answers are found and read, nor in a worker."""
    monkeypatch.chdir(tmp_path)
    gold, answer = "x+1", form % PAYLOAD
    verdicts = checker([gold, answer, gold], [BOX % answer, BOX % gold, answer])
    assert [verdict.correct for verdict in verdicts] == [False, False, False]
    assert list(tmp_path.iterdir()) == list(worker_folder.iterdir()) == []


def test_a_payload_that_is_executed_leaves_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eval(PAYLOAD)
    assert [path.name for path in tmp_path.iterdir()] == ["MARK"]
