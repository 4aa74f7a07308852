"""Run folders → tables, figures and a page.  Reads what runs wrote; needs neither their parts nor a framework."""

from hapo_lit.analysis.figures import (
    Curve,
    anneal_figure,
    cost_figure,
    curve_figure,
    final_figure,
    last_injection_figure,
    plot_anneal,
)
from hapo_lit.analysis.gate_figures import beta_densities, law_figure, lines_figure
from hapo_lit.analysis.groups import group_table, pull_figure
from hapo_lit.analysis.injection import (
    OpenProbability,
    by_pass_rate,
    gate_law,
    injection_by_pass_rate,
    injection_of,
    show_injection,
)
from hapo_lit.analysis.report import Report, injection_table, write_report
from hapo_lit.analysis.runs import (
    RECORDS,
    Run,
    carry_over,
    find_runs,
    load_run,
    read_metrics,
    read_run,
    whole_lines,
)
from hapo_lit.analysis.summary import LABELS, last_injection, show, summarise, wilson
from hapo_lit.analysis.tables import Setting, Sweep, by_setting, differing, long_table, outcome, run_table

__all__ = [
    "LABELS",
    "RECORDS",
    "Curve",
    "OpenProbability",
    "Report",
    "Run",
    "Setting",
    "Sweep",
    "anneal_figure",
    "beta_densities",
    "by_pass_rate",
    "by_setting",
    "carry_over",
    "cost_figure",
    "curve_figure",
    "differing",
    "final_figure",
    "find_runs",
    "gate_law",
    "group_table",
    "injection_by_pass_rate",
    "injection_of",
    "injection_table",
    "last_injection",
    "last_injection_figure",
    "law_figure",
    "lines_figure",
    "load_run",
    "long_table",
    "outcome",
    "plot_anneal",
    "pull_figure",
    "read_metrics",
    "read_run",
    "run_table",
    "show",
    "show_injection",
    "summarise",
    "whole_lines",
    "wilson",
    "write_report",
]
