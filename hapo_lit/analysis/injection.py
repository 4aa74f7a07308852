"""How often the gate opened, beside what its law says."""

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


def injection_by_pass_rate(
    run: Path | str, open_probability: OpenProbability, neighbours: int = 2, bins: int = 10
) -> pd.DataFrame:
    """How often the gate opened, observed against predicted by its law, by the pass rate of the prompt.

    See :func:`by_pass_rate`.  Also written to ``injection.csv``.

    Args:
        run: the run's folder, with ``groups.csv``.
        open_probability, neighbours, bins: as there.

    Returns:
        as there; no row, and no file, if no prompt was visited twice.
    """
    report = by_pass_rate(pd.read_csv(Path(run) / "groups.csv"), open_probability, neighbours, bins)
    if len(report):
        report.to_csv(Path(run) / "injection.csv", index=False)
    return report


def by_pass_rate(
    groups: pd.DataFrame, open_probability: OpenProbability, neighbours: int = 2, bins: int = 10
) -> pd.DataFrame:
    """How often the gate opened on groups, observed against predicted by its law, by the pass rate of the prompt.

    A prompt's pass rate at a visit is not known; its visits just before and after tell.  The law is averaged over what
    they leave open: the posterior of the rate, with a prior fitted to the run itself (the nonparametric maximum of the
    likelihood, Kiefer and Wolfowitz 1956, by expectation-maximisation on a grid).  The group at hand is left out, as it
    is what the gate decided from.  The prediction takes rates to stand still between neighbouring visits; where the
    policy learns or wavers fast they do not, and observed shares are less steep over the bins than predicted ones.

    Args:
        groups: one row per group, as :class:`hapo_lit.training.callbacks.groups.Groups` writes them.
        open_probability: ``(rates, trials, visit) -> P(open)``, e.g. ``BetaGate.open_probability``; None where
            no closed form is known.
        neighbours: visits before and after that tell the rate; at the default 16 rollouts for groups of four.
        bins: of the pass rate.

    Returns:
        one row for each bin with groups in it: ``pass_rate`` (mean of the bin), ``groups``, ``observed``, ``predicted``
        (shares in [0, 1]); no row if no prompt was visited twice.
    """
    groups = groups.sort_values(["prompt", "step"])
    for name in ("successes", "trials"):
        visits = groups.groupby("prompt")[name]
        groups[f"nearby_{name}"] = visits.transform(
            lambda own: own.rolling(2 * neighbours + 1, center=True, min_periods=1).sum() - own
        )
    first = groups["step"].min()
    groups = groups[groups["nearby_trials"] > 0].copy()
    if groups.empty:
        return pd.DataFrame(columns=COLUMNS)
    rates = np.linspace(0, 1, 201)
    kinds = groups.groupby(["nearby_successes", "nearby_trials"]).ngroup().to_numpy()
    won, tried = groups[["nearby_successes", "nearby_trials"]].iloc[np.unique(kinds, return_index=True)[1]].to_numpy().T
    posterior = _posteriors(stats.binom.pmf(won[:, None], tried[:, None], rates), np.bincount(kinds))

    def predicted(at: pd.DataFrame) -> pd.Series:
        """P(open) of the groups of one step."""
        law = open_probability(rates, int(at["trials"].iloc[0]), int(at["step"].iloc[0] - first))
        return pd.Series(np.nan if law is None else posterior[at["kind"]] @ law, at.index)

    groups["kind"] = kinds
    pass_rate = groups["nearby_successes"] / groups["nearby_trials"]
    table = pd.DataFrame(
        {
            "pass_rate": pass_rate,
            "groups": 1,
            "observed": groups["open"],
            "predicted": pd.concat([predicted(at) for _, at in groups.groupby("step")]),
        }
    )
    means: dict[str, Any] = {"pass_rate": "mean", "groups": "sum", "observed": "mean", "predicted": "mean"}
    return table.groupby((pass_rate * bins).clip(upper=bins - 0.5).astype(int)).agg(means).reset_index(drop=True)


def _posteriors(likelihood: np.ndarray, counts: np.ndarray, rounds: int = 200) -> np.ndarray:
    """``[K, R]`` posteriors over a grid of rates for ``K`` kinds of evidence, seen ``counts`` times, with the prior
    that makes all of it most likely."""
    prior = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(rounds):
        posterior = likelihood * prior
        posterior /= posterior.sum(1, keepdims=True)
        prior = counts @ posterior / counts.sum()
    found: np.ndarray = posterior
    return found


def show_injection(report: pd.DataFrame) -> None:
    """Print a report of :func:`injection_by_pass_rate` as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="how often the gate opened, by the prompt's pass rate around that visit")
    for name in ("pass rate", "groups", "observed", "by its law"):
        table.add_column(name, justify="right")
    for row in report.to_dict("records"):
        law = "" if pd.isna(row["predicted"]) else f"{row['predicted']:.1%}"
        table.add_row(f"{row['pass_rate']:.0%}", f"{row['groups']:,.0f}", f"{row['observed']:.1%}", law)
    Console().print(table)


# -- of a run whose gate is not at hand ---------------------------------------------------------------------------


def injection_of(run: Run) -> tuple[pd.DataFrame, str]:
    """A run's ``injection.csv``, or, if it has none, what :func:`by_pass_rate` says with the law that its configuration
    and its metrics tell.  Nothing is written.

    Returns:
        the table, and what has to be said about it: why it is empty, or has no prediction; empty if nothing has to.
    """
    path = run.folder / "injection.csv"
    unread = ""
    if path.is_file():
        try:
            table = pd.read_csv(path)[COLUMNS].astype(float)
        except (ValueError, KeyError):
            unread = "injection.csv cannot be read; "
        else:
            return table, "the law of this gate is not known" if table["predicted"].isna().all() else ""
    if run.groups.empty:
        return pd.DataFrame(columns=COLUMNS), f"{unread}there is no groups.csv, so what the gate saw is not known"
    open_probability, reason = gate_law(run)
    table = by_pass_rate(run.groups, open_probability or (lambda *_: None))
    if table.empty:
        return table, f"{unread}no prompt was seen twice"
    return table, unread + (reason or "computed for this report from groups.csv and config.yaml")


def gate_law(run: Run) -> tuple[OpenProbability | None, str]:
    """The law of a run's gate, as its ``config.yaml`` and the threshold that it logged tell, or why there is none."""
    gate = run.config.get("gate")
    gate = gate if isinstance(gate, Mapping) else {}
    name = class_name(gate)
    if name == "NeverGate":
        return (lambda rates, *_: np.zeros_like(rates)), ""
    if name == "AlwaysGate":
        return (lambda rates, *_: np.ones_like(rates)), ""
    if name == "FailureGate":
        most = int(gate.get("max_successes", 0))
        return (lambda rates, trials, _: law.probability_of_at_most(most, rates, trials)), ""
    if name == "ScheduledGate":
        share = _course(run, gate.get("probability"), "gate/probability")
        return (lambda rates, _, visit: np.full_like(rates, share(visit))), ""
    if name != "BetaGate":
        return None, f"the law of {name or 'a gate that config.yaml does not name'} is not known here"
    if float((gate.get("memory") or {}).get("discount", 0)):
        return None, "the gate remembers earlier visits, and its law is then not known in closed form"
    return _beta_law(run, gate)


def _beta_law(run: Run, gate: Mapping[str, Any]) -> tuple[OpenProbability | None, str]:
    rule = gate.get("rule") or {"_target_": "PosteriorMean"}
    prior = float(gate.get("prior_alpha", 1)), float(gate.get("prior_beta", 1))
    level = float(rule.get("level", 0.5))
    threshold = _course(run, gate.get("threshold"), "gate/threshold")
    laws: dict[str, OpenProbability] = {
        "PosteriorMean": lambda rates, trials, visit: law.mean_rule(rates, threshold(visit), trials, *prior),
        "CredibleBound": lambda rates, trials, visit: law.bound_rule(rates, threshold(visit), trials, level, *prior),
        "ThompsonSample": lambda rates, trials, visit: law.thompson_rule(rates, threshold(visit), trials, *prior),
    }
    open_probability = laws.get(class_name(rule))
    return open_probability, "" if open_probability else f"the law of the rule {class_name(rule)} is not known here"


def _course(run: Run, value: Any, metric: str) -> Callable[[int], float]:
    """A number of the gate by visit, from the first group on: as it was set, or, if scheduled, as it was logged."""
    if isinstance(value, int | float):
        return lambda _: float(value)
    logged, first = run.series(metric), int(run.groups["step"].min())
    return lambda visit: float(logged.get(first + visit, np.nan))


def class_name(part: Mapping[str, Any]) -> str:
    """The class that a part's ``_target_`` names, without its module."""
    return str(part.get("_target_", "")).rpartition(".")[2]
