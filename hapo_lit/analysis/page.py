"""The page of a report: one file of HTML, without scripts and without a network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import pandas as pd

from hapo_lit.analysis.identical import IdenticalRuns
from hapo_lit.analysis.tables import RUN_COLUMNS, Sweep, overrides

OUTCOME = ["greedy", "sampled", "heldout_problems", "last_injection", "demonstrations", "teacher_use_last"]
SIGNAL = [
    "teacher_token_share",
    "teacher_gradient_share",
    "flat_before_last",
    "flat_last",
    "generated_tokens",
    "seconds",
]
MEANINGS = {
    "state": "finished; pruned (a study ended it early: others had done better by then); unfinished (fewer steps than "
    "asked for, or no summary); damaged (files that cannot be read); failed (the sweep noted an error). Numbers of "
    "runs that did not finish are those they reached, and are left out of the means by setting.",
    "accuracy": "share of the held-out problems that were solved at the last evaluation, with its 95 % Wilson "
    "interval over n problems; greedy, and sampled as in training.",
    "last injection": "the last step with a teacher's solution in a group; 0 if there was none.",
    "demonstrations": "teacher's solutions used in all.",
    "flat groups": "groups whose rewards are all equal, from which nothing can be learnt; before and after injection, "
    "mean of the last tenth of the steps.",
    "teacher's share of tokens, of gradient": "of the batch loss's token weight, and of the gradient's norm where that "
    "was measured; mean over all steps.",
    "generated tokens, seconds": "sampled in training; spent in training steps, without evaluation.",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #5d6469; --line: #d9dcde; --paper: #ffffff; --card: #f6f7f7;
  --warn: #9a3c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e7; --soft: #a0a7ab; --line: #3a3f42; --paper: #191b1c;
  --card: #222526; --warn: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
p, li, dd { max-width: 46rem; }
p { margin: .25rem 0 .75rem; }
.soft, figcaption, dd, summary { color: var(--soft); font-size: .87rem; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; max-width: 8rem; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  white-space: normal; overflow-wrap: anywhere; min-width: 13rem; max-width: 20rem; }
@media (max-width: 45rem) { th:first-child, td:first-child { min-width: 8rem; max-width: 9rem; } }
td.text, th.text { text-align: left; }
li { overflow-wrap: anywhere; }
summary { margin-bottom: .5rem; cursor: pointer; }
small { color: var(--soft); font-size: .92em; }
.warn { color: var(--warn); font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.25rem; }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 3px; }
figcaption { margin-top: .5rem; }
dt { font-weight: 600; font-size: .9rem; } dd { margin: 0 0 .5rem; }
"""


class PageFigure(NamedTuple):
    """A figure of the page."""

    name: str
    """Name of its file, without ``.png``."""
    title: str
    caption: str
    png: bytes


def render_page(
    name: str,
    sweep: Sweep,
    runs: pd.DataFrame,
    settings: pd.DataFrame,
    injection: pd.DataFrame,
    figures: Sequence[PageFigure],
    missing: Sequence[str],
    remarks: dict[str, str],
    identical: Sequence[IdenticalRuns] = (),
) -> str:
    """The page as text.

    Args:
        name: of the folder.
        sweep: the runs that it is about.
        runs, settings, injection: see ``run_table``, ``setting_table`` and ``injection_by_setting``.
        figures: the figures, in order.
        missing: figures that could not be drawn, and why.
        remarks: run -> the remark on its injection table.
        identical: runs that are the same run under other settings.
    """
    parts = [f"<h1>{escape(name)}</h1>", _headline(sweep, runs), _unfinished(runs), _identical(identical)]
    if len(sweep.runs) > 1:
        parts += ["<h2>By setting</h2>", _by_setting(settings)]
    parts += ["<h2>Figures</h2>", f'<div class="figures">{"".join(map(_figure, figures))}</div>']
    if missing:
        parts.append(f'<p class="soft">Not drawn. {escape("; ".join(missing))}.</p>')
    parts += ["<h2>Runs</h2>", _runs(sweep, runs)] if len(runs) > 1 else ["<h2>The run</h2>", _one_run(runs)]
    parts += ["<h2>Injection by pass rate</h2>", _injection(injection, len(sweep.grouped) > 1), _remarks(remarks)]
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in MEANINGS.items())
    parts += ["<h2>What the numbers mean</h2>", f"<dl>{words}</dl>"]
    body = "\n".join(filter(None, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _headline(sweep: Sweep, runs: pd.DataFrame) -> str:
    counts = runs["state"].value_counts()
    order = ("finished", "pruned", "unfinished", "damaged", "failed")
    states = ", ".join(f"{counts[state]} {state}" for state in order if state in counts)
    what = f"{len(runs)} runs, {len(sweep.grouped)} settings" if len(runs) > 1 else "One run"
    differ = ", ".join(map(str, sweep.settings)) or ("the seed alone" if len(runs) > 1 else "")
    return f'<p class="soft">{what}: {states}.{f" They differ in {escape(differ)}." if differ else ""}</p>'


def _unfinished(runs: pd.DataFrame) -> str:
    """The runs that did not finish, which the page names first."""
    items = [
        f'<li><b>{escape(run)}</b> <span class="warn">{state}</span>: {escape(note)}</li>'
        for run, state, note in zip(runs["run"], runs["state"], runs["note"], strict=True)
        if state != "finished"
    ]
    return f"<h2>Not finished</h2><ul>{''.join(items)}</ul>" if items else ""


def _identical(identical: Sequence[IdenticalRuns]) -> str:
    items = [f"<li>{escape(str(runs))}</li>" for runs in identical]
    return f"<h2>Identical runs</h2><ul>{''.join(items)}</ul>" if items else ""


def _figure(figure: PageFigure) -> str:
    source = b64encode(figure.png).decode()
    return (
        f'<figure id="{figure.name}"><h3>{escape(figure.title)}</h3>'
        f'<img alt="{escape(figure.title)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


# -- tables -------------------------------------------------------------------------------------------------------

INTERVAL = "Accuracy with its 95 % Wilson interval over n problems."
Cell = Callable[[dict[str, Any], str], str]


def _by_setting(settings: pd.DataFrame) -> str:
    def cell(row: dict[str, Any], name: str) -> str:
        mean, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
        spread = f" <small>{_span(name, low, high)}</small>" if low != high else ""
        return _number(name, mean) + (spread if pd.notna(mean) else "")

    def first(row: dict[str, Any]) -> str:
        finished = f"{row['finished']} of {row['runs']}"
        return f"<td>{escape(str(row['setting']))}</td><td>{finished}</td>"

    caption = "Mean over finished runs, with the smallest and the largest value over seeds."
    return _tables(settings, "<th>setting</th><th>finished</th>", first, cell, caption)


def _with_interval(row: dict[str, Any], name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return _number(name, row[name]) + (f" <small>{_span(name, low, high)}</small>" if pd.notna(low) else "")


def _one_run(runs: pd.DataFrame) -> str:
    """A single run, a line per number."""
    (row,) = _records(runs)
    known = [name for name in [*OUTCOME, *SIGNAL] if pd.notna(row[name])]
    lines = [
        ("state", row["state"]),
        ("seed", "–" if pd.isna(row["seed"]) else str(row["seed"])),
        ("steps", _steps(row)),
    ]
    lines += [(RUN_COLUMNS[name][0], _with_interval(row, name)) for name in known]
    rows = "".join(f"<tr><td>{escape(label)}</td><td>{value}</td></tr>" for label, value in lines)
    return f'<p class="soft">{INTERVAL}</p><div class="scroll"><table>{rows}</table></div>'


def _steps(row: dict[str, Any]) -> str:
    return f"{row['steps']:,.0f}" + ("" if pd.isna(row["steps_planned"]) else f" of {row['steps_planned']:,.0f}")


def _runs(sweep: Sweep, runs: pd.DataFrame) -> str:
    named = all(overrides(run) for run in runs["run"])  # the first column has them already
    names = [] if named else [str(name) for name in sweep.settings][:5]

    def first(row: dict[str, Any]) -> str:
        style = "text" if row["state"] == "finished" else "text warn"
        values = [*(row[name] for name in names), "" if pd.isna(row["seed"]) else row["seed"], _steps(row)]
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in values)
        return f'<td>{escape(row["run"])}</td><td class="{style}">{row["state"]}</td>{cells}'

    head = "".join(f"<th>{escape(name)}</th>" for name in [*names, "seed", "steps"])
    return _tables(runs, f'<th>run</th><th class="text">state</th>{head}', first, _with_interval, INTERVAL)


def _tables(table: pd.DataFrame, head: str, first: Callable[[dict[str, Any]], str], cell: Cell, caption: str) -> str:
    """Two tables, outcome and cost, so that each fits a page; columns without a known value are left out."""
    tables: list[str] = []
    for columns, title in ((OUTCOME, caption), (SIGNAL, "")):
        known = [name for name in columns if table[name].notna().any()]
        if not known and tables:
            continue
        names = "".join(f"<th>{escape(RUN_COLUMNS[name][0])}</th>" for name in known)
        rows = [
            f"<tr>{first(row)}{''.join(f'<td>{cell(row, name)}</td>' for name in known)}</tr>"
            for row in _records(table)
        ]
        over = f'<p class="soft">{title}</p>' if title else ""
        tables.append(f'{over}<div class="scroll"><table><tr>{head}{names}</tr>{"".join(rows)}</table></div>')
    return "".join(tables)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _number(name: str, value: Any) -> str:
    return "–" if pd.isna(value) else _spaced(RUN_COLUMNS[name][1].format(value))


def _span(name: str, low: Any, high: Any) -> str:
    form = RUN_COLUMNS[name][1]
    return f"{form.format(low).rstrip('%')}–{_spaced(form.format(high))}"


def _spaced(text: str) -> str:
    return text.replace("%", "\u202f%")


def _injection(injection: pd.DataFrame, several: bool) -> str:
    if injection.empty:
        return "<p>No run logged how often its gate opened.</p>"
    names = [*(["setting"] if several else []), "pass rate", "groups", "observed", "predicted"]
    rows = []
    for row in _records(injection):
        cells = [
            *([escape(str(row["setting"]))] if several else []),
            _spaced(f"{row['pass_rate']:.0%}"),
            f"{row['groups']:,.0f}",
            _spaced(f"{row['observed']:.1%}"),
            "–" if pd.isna(row["predicted"]) else _spaced(f"{row['predicted']:.1%}"),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    table = f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    caption = "Share of groups on which the gate was open, by the prompt's pass rate around that visit"
    return f"<details{'' if several else ' open'}><summary>{caption}</summary>{table}</details>"


def _remarks(remarks: dict[str, str]) -> str:
    """A line per remark, with the runs that it is about."""
    runs_of: dict[str, list[str]] = {}
    for run, remark in remarks.items():
        runs_of.setdefault(remark, []).append(run)
    items = "".join(
        f"<li>{escape(', '.join(runs) if len(runs) <= 3 else f'{len(runs)} runs')}: {escape(remark)}</li>"
        for remark, runs in runs_of.items()
    )
    return f'<ul class="soft">{items}</ul>' if items else ""
