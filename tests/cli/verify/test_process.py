"""``hapo verify`` in a process of its own: kills, interrupts, a terminal."""

import contextlib
import os
import pty
import signal
import time

import pytest
from support.processes import descendants, processes, soon
from support.verify_command import CHUNK, LONG, NUMBERS, algebra, cells, lines_in, read, start, write


def test_a_killed_run_loses_at_most_a_chunk_and_is_continued(tmp_path):
    """Killed in the third chunk, while a worker is busy."""
    rows = algebra(3 * CHUNK)
    rows[2 * CHUNK] = {"gold": "x+1", "prediction": LONG, "expected": False}
    write(tmp_path / "r.jsonl", rows)
    arguments = ["--file", "r.jsonl", "--out", "v.jsonl", "--workers", "1"]
    run = start(tmp_path, *arguments)
    assert soon(lambda: lines_in(tmp_path / "v.jsonl") >= 2 * CHUNK, 60)
    family = descendants(run.pid)
    run.kill()
    run.communicate()
    assert family
    assert soon(lambda: not family & set(processes()))
    kept = (tmp_path / "v.jsonl").read_bytes()
    assert kept.count(b"\n") == 2 * CHUNK
    (tmp_path / "v.jsonl").write_bytes(kept[:-5])  # and as if it had met it in the middle of a line
    out, err = start(tmp_path, *arguments).communicate()
    assert err == ""
    assert (tmp_path / "v.jsonl").read_bytes().startswith(kept[:-5].rpartition(b"\n")[0])
    expected = [(number, row["expected"]) for number, row in enumerate(rows)]
    assert [(verdict["row"], verdict["correct"]) for verdict in read(tmp_path / "v.jsonl")] == expected
    assert ["", "48", "48", "0", "0"] in cells(out)


@pytest.mark.parametrize("out", [True, False])
def test_an_interrupt_leaves_no_process_and_says_how_to_continue(tmp_path, out):
    write(tmp_path / "r.jsonl", [*algebra(CHUNK), {"gold": "x+1", "prediction": LONG}])
    arguments = ["--file", "r.jsonl", "--set", "cpu_seconds=60", "--set", "seconds=60"]
    run = start(tmp_path, *arguments, *(["--out", "v.jsonl"] if out else []))
    assert soon(lambda: len(descendants(run.pid)) >= 2, 60)
    if out:
        assert soon(lambda: lines_in(tmp_path / "v.jsonl") >= CHUNK, 60)
    family = descendants(run.pid)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert not family & set(processes())
    said = err.splitlines()
    assert said[-1] == "hapo: interrupted"
    if out:
        assert lines_in(tmp_path / "v.jsonl") == CHUNK
        assert said[:-1] == ["hapo: 16 of 17 verdicts are in v.jsonl; run again to continue"]
    else:
        assert len(said) == 1


def test_no_process_is_left_at_the_end(tmp_path):
    run = start(tmp_path, "1-x", "-x+1", "--set", "cpu_seconds=5")
    family = set()
    while run.poll() is None:
        family |= descendants(run.pid)
        time.sleep(0.03)
    assert run.returncode == 0
    run.communicate()
    assert family
    assert not family & set(processes())


def test_a_terminal_is_shown_a_bar(tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    ours, theirs = pty.openpty()
    run = start(tmp_path, "--file", "r.jsonl", stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # on Linux: the other side is gone
        while some := os.read(ours, 4096):
            said += some
    os.close(ours)
    out, _ = run.communicate()
    assert b"scoring rows" in said
    assert "scoring rows" not in out
    assert run.returncode == 0
