"""Run folders → tables, figures and a page.  Needs neither torch nor the parts of the run."""

from hapo_lit.analysis.figures import (
    Curve,
    anneal_figure,
    cost_figure,
    curve_figure,
    final_figure,
    last_injection_figure,
    plot_anneal,
)
from hapo_lit.analysis.gate_figures import beta_figure, injection_figure, lines_figure
from hapo_lit.analysis.groups import contribution_figure, group_table
from hapo_lit.analysis.injection import (
    OpenProbability,
    injection_by_pass_rate,
    injection_of_run,
    open_probability_of,
    print_injection,
    write_injection,
)
from hapo_lit.analysis.logs import LOG_FILES, carry_over, read_metrics
from hapo_lit.analysis.report import Report, injection_by_setting, write_report
from hapo_lit.analysis.runs import Run, find_runs, load_run
from hapo_lit.analysis.summary import SUMMARY_LABELS, last_injection, print_summary, summarise, wilson
from hapo_lit.analysis.tables import Setting, Sweep, differing_settings, long_table, outcome, run_table, setting_table

__all__ = [
    "LOG_FILES",
    "SUMMARY_LABELS",
    "Curve",
    "OpenProbability",
    "Report",
    "Run",
    "Setting",
    "Sweep",
    "anneal_figure",
    "beta_figure",
    "carry_over",
    "contribution_figure",
    "cost_figure",
    "curve_figure",
    "differing_settings",
    "final_figure",
    "find_runs",
    "group_table",
    "injection_by_pass_rate",
    "injection_by_setting",
    "injection_figure",
    "injection_of_run",
    "last_injection",
    "last_injection_figure",
    "lines_figure",
    "load_run",
    "long_table",
    "open_probability_of",
    "outcome",
    "plot_anneal",
    "print_injection",
    "print_summary",
    "read_metrics",
    "run_table",
    "setting_table",
    "summarise",
    "wilson",
    "write_injection",
    "write_report",
]
