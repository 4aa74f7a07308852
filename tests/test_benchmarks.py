"""The table of claims: what decides a verdict, and what becomes of a measurement that fails.  Nothing is timed here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACTS = {"date": "2026-01-02", "revision": "abc1234", "machine": "2 cores of X"}


@pytest.fixture(scope="module")
def benchmark():
    """Imports a module of ``benchmarks/``, which is no part of the package."""
    sys.path.insert(0, str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    sys.path.remove(str(ROOT))


@pytest.fixture
def halves(benchmark):
    """A case whose sides take 1, 2, 3 ... CPU seconds and twice that."""
    measuring, taken = benchmark("measuring"), []

    def side(factor):
        def once(quick):
            taken.append("ours" if factor == 1 else "peer")
            return {"cpu": factor * float((len(taken) + 1) // 2), "wall": 5.0, "peak": 1.0}

        return once

    claims = [
        measuring.Claim("X", "a thing", "ours / peer", measuring.ratio(), 0.5),
        measuring.Claim("X-fast", "a thing", "times faster", measuring.times_faster(), 2.01, at_least=True),
    ]
    return measuring.Case("X", claims, side(1), side(2), "Peer"), taken


def test_the_median_decides_and_the_goal_itself_is_met(benchmark, halves):
    measuring, (case, taken) = benchmark("measuring"), halves
    rounds = measuring.measured(case, 3, False, lambda: None)
    assert taken == ["ours", "peer"] * 3
    met, not_met = (measuring.row(claim, case, rounds, {**FACTS, "beside": "Peer 1"}) for claim in case.claims)
    assert (met.number, met.verdict, met.bound) == (0.5, "met", "ours / peer ≤ 0.5")
    assert (not_met.number, not_met.verdict, not_met.bound) == (2.0, "not met", "times faster ≥ 2.01")
    assert (met.ours, met.theirs, met.rounds) == ("2 CPU s (5 s wall)", "4 CPU s (5 s wall)", 3)


def test_spread_is_from_the_least_to_the_most_and_the_median_is_of_the_ratios(benchmark):
    measuring = benchmark("measuring")
    claim = measuring.Claim("Y", "a thing", "ours / peer", measuring.ratio(), 1.0)
    case = measuring.Case("Y", [claim], lambda quick: {}, lambda quick: {}, "Peer")
    rounds = [({"cpu": ours}, {"cpu": theirs}) for ours, theirs in ((1.0, 10.0), (3.0, 2.0), (4.0, 5.0))]
    row = measuring.row(claim, case, rounds, {**FACTS, "beside": "Peer 1"})
    assert (row.least, row.number, row.most) == (0.1, 0.8, 1.5)


def test_a_measurement_that_fails_is_a_row_that_says_so_and_the_others_go_on(benchmark, halves, tmp_path, monkeypatch):
    main, measuring, (good, _) = benchmark("__main__"), benchmark("measuring"), halves

    def fails(quick):
        raise RuntimeError("no\n  memory | left")

    bad = measuring.Case("W", [measuring.Claim("W", "it", "GB", measuring.alone(), 1.0)], fails)
    monkeypatch.setattr(main, "CASES", [bad, good])
    assert main.main(["--rounds", "1", "--out", str(tmp_path / "table.md")]) == 1
    lines = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert "**failed**: no memory \\| left" in lines[1]
    assert "| **0.5** (0.5 to 0.5) | met |" in lines[2]
    assert "| **not met** |" in lines[3]


def test_a_run_of_one_row_changes_its_line_alone(benchmark, halves, tmp_path):
    measuring, results, (case, _) = benchmark("measuring"), benchmark("results"), halves
    table, facts = tmp_path / "RESULTS.md", {**FACTS, "beside": "Peer 1"}
    rounds = measuring.measured(case, 1, False, lambda: None)
    old = [measuring.row(claim, case, rounds, facts) for claim in case.claims]
    results.write(table, old, ["X", "X-fast"])
    new = measuring.row(case.claims[1], case, rounds, {**facts, "date": "2026-02-03", "machine": "8 cores of Y"})
    results.write(table, [new], ["X-fast", "X"])
    assert list(results.kept(tmp_path / "RESULTS.jsonl").values()) == [new, old[0]]
    first, second = [line for line in table.read_text().splitlines() if line.startswith("| X")]
    assert first.endswith("| 2026-02-03, abc1234, a |")
    assert second.endswith("| 2026-01-02, abc1234, b |")
    assert "- b: 2 cores of X" in table.read_text()
    assert "scaling.png" not in table.read_text()
    (tmp_path / "scaling.png").touch()
    results.write(table, [], ["X-fast", "X"])
    assert table.read_text().endswith("(scaling.png)\n")


def test_the_list_names_every_row_and_every_other_script(benchmark, capsys):
    main, rows = benchmark("__main__"), benchmark("rows")
    assert main.main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    names = [claim.name for case in rows.CASES for claim in case.claims]
    assert [line.split()[0] for line in listed[: len(names)]] == names
    assert len(set(names)) == len(names)
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "argparse.Arg" in path.read_text()}
    assert all(any(line.startswith(f"benchmarks/{name}") for line in listed) for name in scripts - {"__main__.py"})


def test_a_name_chooses_its_rows_in_the_order_of_the_table_and_an_unknown_one_is_refused(benchmark, capsys):
    main = benchmark("__main__")
    assert [case.name for case in main.chosen_cases(["S1C", "S1A", "S1B-memory"])] == ["S1A", "S1B", "S1C"]
    with pytest.raises(SystemExit):
        main.main(["S1A", "nothing"])
    assert "there is no row nothing" in capsys.readouterr().err


def test_quick_numbers_stay_out_of_the_results(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark("__main__").main(["--quick"])
    assert "--out" in capsys.readouterr().err


def test_the_machine_is_described_without_its_name_or_folders(benchmark):
    import platform

    text = benchmark("results").machine()
    assert "cores of" in text
    assert f"Python {platform.python_version()}" in text
    assert platform.node() not in text.split()
    assert str(ROOT) not in text
