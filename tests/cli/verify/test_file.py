"""``hapo verify --file``: rows, verdicts, tables."""

import pytest
from support.verify_command import cells, read, timeless, write

from hapo_lit.verify import Checker, score_file


def test_the_verdicts_of_a_file_row_by_row(hapo, tmp_path):
    rows = [
        {"gold": "1/2", "prediction": "0.5"},
        {"gold": "5", "prediction": "\ud800 6"},
        {"gold": "x+1", "prediction": "<think>", "extra": [1]},
        {"gold": "x+1", "prediction": r"\boxed{1+x}"},
        {"gold": "", "prediction": "ü\u20281"},
    ]
    write(tmp_path / "r.jsonl", rows)
    out, err, status = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert (status, err) == (0, "")
    assert timeless(tmp_path / "v.jsonl") == [
        {"row": 0, "correct": True, "reason": "number", "extracted": "0.5"},
        {"row": 1, "correct": False, "reason": "refused", "extracted": "\ud800 6"},
        {"row": 2, "correct": False, "reason": "no_answer", "extracted": None},
        {"row": 3, "correct": True, "reason": "sympy", "extracted": "1+x"},
        {"row": 4, "correct": False, "reason": "bad_gold", "extracted": "ü\u20281"},
    ]
    assert all(verdict["seconds"] >= 0 for verdict in read(tmp_path / "v.jsonl"))
    assert (tmp_path / "v.jsonl").read_bytes().isascii()
    table = {line[0]: line[1:4] for line in cells(out)}
    assert table["sympy"] == ["1", "20.0%", "1"]
    assert table["refused"] == ["1", "20.0%", "0"]
    assert table["all"] == ["5", "100.0%", "2"]
    assert "expected" not in out


def test_without_a_place_for_them_the_verdicts_are_only_counted(hapo, tmp_path):
    write(tmp_path / "r.jsonl", [{"gold": "5", "prediction": "5"}] * 3)
    out, _, status = hapo("--file", "r.jsonl")
    assert status == 0
    assert ["all", "3", "100.0%", "3"] in [line[:4] for line in cells(out)]
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_the_slowest_are_listed_by_reason():
    tables, console = score_file.ScoreTables(), _Printed()
    for number in range(200):
        verdict = score_file.Verdict(True, "number" if number else "sympy", "5", "box", number / 1000)
        tables.add(score_file.PredictionRow("5", "5", None, ""), verdict)
    tables.show(console)
    assert console.tables[0] == [
        ["number", "199", "99.5%", "199", "0.198", "0.199"],  # the 198th of 199
        ["sympy", "1", "0.5%", "1", "0.000", "0.000"],
        ["all", "200", "100.0%", "200", "0.197", "0.199"],
    ]


class _Printed:
    """A console that keeps the tables it is given."""

    def __init__(self):
        self.tables = []

    def print(self, table, **_):
        columns = [[str(cell) for cell in column.cells] for column in table.columns]
        self.tables.append([list(row) for row in zip(*columns, strict=True)])


def test_false_verdicts_are_counted_by_category_and_listed(hapo, tmp_path):
    rows = [{"gold": "5", "prediction": "6", "expected": True, "category": "[b]gsm"}] * 23
    rows += [{"gold": "5", "prediction": "5", "expected": True, "category": "[b]gsm"}]
    rows += [{"gold": "7", "prediction": r"\boxed{7.0}", "expected": False, "category": 3}]
    rows += [{"gold": "8", "prediction": "9", "expected": False}, {"gold": "8", "prediction": "8"}]
    write(tmp_path / "r.jsonl", rows)
    out, _, status = hapo("--file", "r.jsonl")
    assert status == 0
    table = cells(out.split("expected", 1)[1])
    assert ["[b]gsm", "24", "1", "0", "23"] in table
    assert ["3", "1", "0", "1", "0"] in table
    assert ["", "1", "1", "0", "0"] in table
    assert ["all", "26", "2", "1", "23"] in table
    assert ["24", "3", "7", "7.0", "number"] in table
    listed = [line[0] for line in table if line[1:] == ["[b]gsm", "5", "6", "number"]]
    assert listed == [str(number) for number in range(20)]
    assert "and 3 more false negatives" in out
    assert "more false positives" not in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"gold": "5"', "no JSON ("),
        (b'{"gold": "5", "prediction": "\xff"}', "no JSON ("),
        (b"[" * 100_000, "no JSON ("),
        (b"[1]", "expected an object"),
        (b'{"gold": "5"}', "'prediction': expected text, found nothing"),
        (b'{"gold": 5, "prediction": "5"}', "'gold': expected text, found int"),
        (b'{"gold": "5", "prediction": null}', "'prediction': expected text, found NoneType"),
        (b'{"gold": "5", "prediction": "5", "expected": 1}', "'expected': expected true or false, found int"),
        (b'{"gold": "5", "prediction": "5", "expected": null}', "'expected': expected true or false, found NoneType"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_scored(hapo, tmp_path, monkeypatch, line, message):
    monkeypatch.setattr(Checker, "__call__", lambda *_: pytest.fail("scored"))
    good = b'{"gold": "5", "prediction": "5"}\n'
    (tmp_path / "r.jsonl").write_bytes(good * 600 + b"\n" + line + b"\n" + good)
    out, err, status = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert (status, out) == (2, "")
    assert err.startswith("hapo: error: r.jsonl, line 602: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "v.jsonl").exists()


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_rows_is_one_line(hapo, tmp_path, text):
    (tmp_path / "r.jsonl").write_text(text)
    assert hapo("--file", "r.jsonl")[1:] == ("hapo: error: r.jsonl holds no rows", 2)


def test_blank_lines_and_a_byte_order_mark_are_no_rows(hapo, tmp_path):
    (tmp_path / "r.jsonl").write_bytes(
        b'\xef\xbb\xbf{"gold":"5","prediction":"5"}\r\n\r\n{"gold":"6","prediction":"6"}'
    )
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert [verdict["row"] for verdict in read(tmp_path / "v.jsonl")] == [0, 1]
