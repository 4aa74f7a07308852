"""How often the gate opened, observed and predicted by the injection law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hapo_lit import injection_law as law
from hapo_lit.analysis.runs import Run

OpenProbability = Callable[[np.ndarray, int, int], np.ndarray | None]
"""``(success rates, trials, visit)`` -> P(the gate opens); None = not known in closed form."""
COLUMNS = ["pass_rate", "groups", "observed", "predicted"]


def write_injection(run: Path | str, open_probability: OpenProbability) -> pd.DataFrame:
    """Write ``injection.csv`` of a run, as :func:`injection_by_pass_rate` of its ``groups.csv``.

    Args:
        run: the run's folder.
        open_probability: of its gate.

    Returns:
        the table; without a row, and without a file, if no prompt was visited twice.
    """
    table = injection_by_pass_rate(pd.read_csv(Path(run) / "groups.csv"), open_probability)
    if len(table):
        table.to_csv(Path(run) / "injection.csv", index=False)
    return table


def injection_by_pass_rate(
    groups: pd.DataFrame, open_probability: OpenProbability, neighbours: int = 2, bins: int = 10
) -> pd.DataFrame:
    """How often the gate opened on groups, observed and predicted, by the pass rate of the prompt.

    A prompt's pass rate at a visit is estimated from the visits just before and after it.  The prediction is the open
    probability averaged over the posterior of that rate, whose prior is fitted to the run itself (the nonparametric
    maximum of the likelihood, Kiefer and Wolfowitz 1956, by expectation-maximisation on a grid).  The current group is
    left out, as the gate decided from it.  The rate is taken to be the same at neighbouring visits; where it changes
    fast, observed shares are less steep over the bins than predicted ones.

    Args:
        groups: one row per group, as :class:`hapo_lit.training.callbacks.groups.Groups` writes them.
        open_probability: of the gate, e.g. ``BetaGate.open_probability``.
        neighbours: visits before and after that the rate is estimated from; with groups of four, 2 are 16 rollouts.
        bins: of the pass rate.

    Returns:
        one row for each bin with groups in it: ``pass_rate`` (mean of the bin), ``groups``, ``observed``, ``predicted``
        (shares in [0, 1]; NaN where no closed form is known); no row if no prompt was visited twice.
    """
    groups = groups.sort_values(["prompt", "step"], ignore_index=True)
    for name in ("successes", "trials"):
        visits = groups.groupby("prompt")[name].rolling(2 * neighbours + 1, center=True, min_periods=1)
        groups[f"nearby_{name}"] = visits.sum().to_numpy() - groups[name]
    first = groups["step"].min()
    groups = groups[groups["nearby_trials"] > 0].copy()
    if groups.empty:
        return pd.DataFrame(columns=COLUMNS)
    rates = np.linspace(0, 1, 201)
    evidence = groups.groupby(["nearby_successes", "nearby_trials"]).ngroup().to_numpy()
    counts = groups[["nearby_successes", "nearby_trials"]].iloc[np.unique(evidence, return_index=True)[1]].to_numpy()
    likelihood = stats.binom.pmf(counts[:, :1], counts[:, 1:], rates)
    posterior = _posteriors(likelihood, np.bincount(evidence))

    def predicted(step: pd.DataFrame) -> pd.Series:
        """P(open) of the groups of one step."""
        at_rates = open_probability(rates, int(step["trials"].iloc[0]), int(step["step"].iloc[0] - first))
        return pd.Series(np.nan if at_rates is None else posterior[step["evidence"]] @ at_rates, step.index)

    groups["evidence"] = evidence
    pass_rate = groups["nearby_successes"] / groups["nearby_trials"]
    table = pd.DataFrame(
        {
            "pass_rate": pass_rate,
            "groups": 1,
            "observed": groups["open"],
            "predicted": pd.concat([predicted(step) for _, step in groups.groupby("step")]),
        }
    )
    means: dict[str, Any] = {"pass_rate": "mean", "groups": "sum", "observed": "mean", "predicted": "mean"}
    return table.groupby((pass_rate * bins).clip(upper=bins - 0.5).astype(int)).agg(means).reset_index(drop=True)


def _posteriors(likelihood: np.ndarray, counts: np.ndarray, rounds: int = 200) -> np.ndarray:
    """``[K, R]`` posteriors over a grid of ``R`` rates, with the prior that maximises the likelihood of all evidence.

    Args:
        likelihood: ``[K, R]`` of ``K`` kinds of evidence.
        counts: ``[K]``, how often each occurred.
        rounds: of expectation-maximisation.
    """
    prior = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(rounds):
        posterior = likelihood * prior
        posterior /= posterior.sum(1, keepdims=True)
        prior = counts @ posterior / counts.sum()
    found: np.ndarray = posterior
    return found


def print_injection(injection: pd.DataFrame) -> None:
    """Print a table of :func:`injection_by_pass_rate`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Gate openings by prompt pass rate")
    for name in ("pass rate", "groups", "observed", "predicted"):
        table.add_column(name, justify="right")
    for row in injection.to_dict("records"):
        predicted = "" if pd.isna(row["predicted"]) else f"{row['predicted']:.1%}"
        table.add_row(f"{row['pass_rate']:.0%}", f"{row['groups']:,.0f}", f"{row['observed']:.1%}", predicted)
    Console().print(table)


# -- of a run folder, without the gate itself ---------------------------------------------------------------------


def injection_of_run(run: Run) -> tuple[pd.DataFrame, str]:
    """A run's ``injection.csv``, or, if it has none, the table computed from its other files.  Nothing is written.

    Returns:
        the table, and a remark: why it is empty or has no prediction, or that it was computed here; "" otherwise.
    """
    path = run.folder / "injection.csv"
    unread = ""
    if path.is_file():
        try:
            table = pd.read_csv(path)[COLUMNS].astype(float)
        except (ValueError, KeyError):
            unread = "injection.csv cannot be read; "
        else:
            return table, "the open probability of this gate is not known" if table["predicted"].isna().all() else ""
    if run.groups.empty:
        return pd.DataFrame(columns=COLUMNS), f"{unread}there is no groups.csv, so the gate's decisions are not known"
    open_probability, reason = open_probability_of(run)
    table = injection_by_pass_rate(run.groups, open_probability or (lambda *_: None))
    if table.empty:
        return table, f"{unread}no prompt was visited twice"
    return table, unread + (reason or "computed for this report from groups.csv and config.yaml")


def open_probability_of(run: Run) -> tuple[OpenProbability | None, str]:
    """The open probability of a run's gate, by ``config.yaml`` and the threshold it logged; or why there is none."""
    gate = run.config.get("gate")
    gate = gate if isinstance(gate, Mapping) else {}
    name = class_name(gate)
    if name == "NeverGate":
        return (lambda rates, *_: np.zeros_like(rates)), ""
    if name == "AlwaysGate":
        return (lambda rates, *_: np.ones_like(rates)), ""
    if name == "FailureGate":
        successes = int(gate.get("max_successes", 0))
        return (lambda rates, trials, _: law.probability_of_at_most(successes, rates, trials)), ""
    if name == "ScheduledGate":
        share = _by_visit(run, gate.get("probability"), "gate/probability")
        return (lambda rates, _, visit: np.full_like(rates, share(visit))), ""
    if name != "BetaGate":
        return None, f"the open probability of {name or 'a gate that config.yaml does not name'} is not known"
    if float((gate.get("memory") or {}).get("discount", 0)):
        return None, "the gate remembers earlier visits, so that its open probability is not known in closed form"
    return _of_beta_gate(run, gate)


def _of_beta_gate(run: Run, gate: Mapping[str, Any]) -> tuple[OpenProbability | None, str]:
    rule = gate.get("rule") or {"_target_": "PosteriorMean"}
    prior = float(gate.get("prior_alpha", 1)), float(gate.get("prior_beta", 1))
    level = float(rule.get("level", 0.5))
    threshold = _by_visit(run, gate.get("threshold"), "gate/threshold")
    rules: dict[str, OpenProbability] = {
        "PosteriorMean": lambda rates, trials, visit: law.mean_rule(rates, threshold(visit), trials, *prior),
        "CredibleBound": lambda rates, trials, visit: law.bound_rule(rates, threshold(visit), trials, level, *prior),
        "ThompsonSample": lambda rates, trials, visit: law.thompson_rule(rates, threshold(visit), trials, *prior),
    }
    name = class_name(rule)
    return rules.get(name), "" if name in rules else f"the open probability of the rule {name} is not known"


def _by_visit(run: Run, value: Any, metric: str) -> Callable[[int], float]:
    """A number of the gate by visit, counted from the first group: as it was set, or, if scheduled, as logged."""
    if isinstance(value, int | float):
        return lambda _: float(value)
    logged, first = run.series(metric), int(run.groups["step"].min())
    return lambda visit: float(logged.get(first + visit, np.nan))


def class_name(part: Mapping[str, Any]) -> str:
    """The class that a part's ``_target_`` names, without its module."""
    return str(part.get("_target_", "")).rpartition(".")[2]
