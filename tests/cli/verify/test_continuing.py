"""A file of verdicts is continued and never mixed with others."""

import pytest
from support.verify_command import CHUNK, NUMBERS, cells, lines_in, timeless, write

from hapo_lit.cli import verify as verb
from hapo_lit.verify import Checker, score_file


@pytest.fixture
def watched(monkeypatch):
    """How many rows the checker was given, call by call."""
    sizes = []
    check = Checker.__call__

    def counting(self, golds, responses):
        sizes.append(len(golds))
        return check(self, golds, responses)

    monkeypatch.setattr(Checker, "__call__", counting)
    monkeypatch.setattr(verb, "CHUNK", CHUNK)
    return sizes


def test_a_file_is_scored_in_chunks_and_not_twice(hapo, tmp_path, watched):
    write(tmp_path / "r.jsonl", NUMBERS)
    first = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert watched == [16, 16, 16, 2]
    whole = (tmp_path / "v.jsonl").read_bytes()
    again = hapo("--file", "r.jsonl", "--out", "v.jsonl", "--workers", "1")
    assert watched == [16, 16, 16, 2]
    assert (tmp_path / "v.jsonl").read_bytes() == whole
    assert [line[:4] for line in cells(again[0])] == [line[:4] for line in cells(first[0])]


def test_a_chunk_is_on_disk_before_the_next_is_scored(hapo, tmp_path, monkeypatch):
    found = []
    check = Checker.__call__

    def looking(self, golds, responses):
        found.append(lines_in(tmp_path / "v.jsonl"))
        return check(self, golds, responses)

    monkeypatch.setattr(Checker, "__call__", looking)
    monkeypatch.setattr(verb, "CHUNK", CHUNK)
    write(tmp_path / "r.jsonl", NUMBERS)
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert found == [0, 16, 32, 48]


@pytest.mark.parametrize("cut", [1, 20, 0])
def test_a_half_written_line_is_cut_off_and_scored_again(hapo, tmp_path, watched, cut):
    write(tmp_path / "r.jsonl", NUMBERS)
    first, _, _ = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    expected = timeless(tmp_path / "v.jsonl")
    lines = (tmp_path / "v.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "v.jsonl").write_bytes(b"".join(lines[:19]) + (lines[19][:-cut] if cut else b""))
    watched.clear()
    out, err, status = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert (status, err) == (0, "")
    assert watched == [16, 15]
    assert timeless(tmp_path / "v.jsonl") == expected
    assert [line[:4] for line in cells(out)] == [line[:4] for line in cells(first)]


def test_other_rows_or_settings_are_refused(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    write(tmp_path / "s.jsonl", NUMBERS[:-1])
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    whole = (tmp_path / "v.jsonl").read_bytes()
    for change, named in [
        (["--file", "s.jsonl"], "(rows)"),
        (["--file", "r.jsonl", "--set", "cpu_seconds=2"], "(cpu_seconds)"),
        (["--file", "r.jsonl", "--set", "conventions.decimal_digits=null"], "(conventions.decimal_digits)"),
    ]:
        _, err, status = hapo(*change, "--out", "v.jsonl")
        assert status == 2
        assert err.startswith(f"hapo: error: v.jsonl was made from other rows or settings {named}: ")
        assert (tmp_path / "v.jsonl").read_bytes() == whole
    assert hapo("--file", "r.jsonl", "--out", "v.jsonl", "--set", "cpu_seconds=1")[2] == 0


def test_other_rules_are_refused(hapo, tmp_path, monkeypatch):
    write(tmp_path / "r.jsonl", NUMBERS)
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    monkeypatch.setattr(verb, "RULES", verb.RULES + 1)
    assert "(rules)" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]


def test_a_file_that_is_not_ours_is_never_touched(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    (tmp_path / "diary.txt").write_text("dear diary")
    for name in ("diary.txt", "r.jsonl"):
        before = (tmp_path / name).read_bytes()
        assert f"{name} exists, and no {name}.meta.json says what it is" in hapo("--file", "r.jsonl", "--out", name)[1]
        assert (tmp_path / name).read_bytes() == before


def test_damage_is_named(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    lines = (tmp_path / "v.jsonl").read_text().splitlines(keepends=True)
    for damaged in (lines[:7] + lines[8:], [*lines[:7], "\0\n", *lines[8:]], [*lines[:7], "5\n"]):
        (tmp_path / "v.jsonl").write_text("".join(damaged))
        assert "v.jsonl, line 8 is damaged" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]
        assert (tmp_path / "v.jsonl").read_text() == "".join(damaged)
    (tmp_path / "v.jsonl").write_text("".join([*lines, lines[-1].replace("49", "50")]))
    assert "v.jsonl, line 51 is damaged" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]
    (tmp_path / "v.jsonl.meta.json").write_text("{")
    assert "v.jsonl.meta.json is damaged" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]


def test_a_place_that_cannot_be_written_is_one_line(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    _, err, status = hapo("--file", "r.jsonl", "--out", "nowhere/v.jsonl")
    assert status == 2
    assert "nowhere/v.jsonl" in err
    assert len(err.splitlines()) == 1


def test_two_processes_do_not_write_one_file(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    file = score_file.VerdictFile(tmp_path / "v.jsonl", {}, 50)
    assert "is being written by another process" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]
    file.close()
    assert hapo("--file", "r.jsonl", "--out", "v.jsonl")[2] == 0
