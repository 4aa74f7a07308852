"""Settings that differ and make the same run: found from configurations, before a run or after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from hapo_lit import injection_law as law
from hapo_lit.analysis.tables import changes_the_run, flat_settings

GATES, INJECTORS, TEACHERS = "hapo_lit.gates.", "hapo_lit.injectors.", "hapo_lit.teacher."
"""How the ``_target_`` of our own parts begins: what other classes do is not known here."""


class IdenticalRuns(NamedTuple):
    """Runs with other settings that learn exactly the same.

    Example:
        ``IdenticalRuns(("0_gate.prior_alpha=0.5", "1_gate.prior_alpha=1"), "their gates open iff S = 0 of n = 4")``.
    """

    names: tuple[str, ...]
    why: str
    """What differing settings come to; empty if no setting differs that changes a run."""

    def __str__(self) -> str:
        return f"the same run{f' ({self.why})' if self.why else ''}: {', '.join(self.names)}"


def identical_runs(configurations: Mapping[str, Mapping[str, Any]]) -> list[IdenticalRuns]:
    """Which of some runs are the same run.

    Settings of where a run is recorded do not count.  Of a gate without memory, schedule and draws only the largest
    number of successes at which it opens counts, which :mod:`hapo_lit.injection_law` gives in rationals; so do priors
    of which the teacher's term sees nothing else.

    Args:
        configurations: name -> nested settings of a run; those without any are left out.
    """
    kinds: dict[str, list[str]] = {}
    openings: dict[str, str] = {}
    for name, config in configurations.items():
        if config:
            opening = _opening(config)
            settings = flat_settings(_with_opening(config, opening))
            counted = {key: value for key, value in settings.items() if changes_the_run(key)}
            kind = json.dumps(counted, default=str, sort_keys=True)
            kinds.setdefault(kind, []).append(name)
            openings[name] = "" if opening is None else opening
    gates = {name: json.dumps(config.get("gate"), default=str) for name, config in configurations.items()}
    return [
        IdenticalRuns(tuple(names), openings[names[0]] if len({gates[name] for name in names}) > 1 else "")
        for names in kinds.values()
        if len(names) > 1
    ]


def _with_opening(node: Any, opening: str | None) -> Any:
    """Settings in which every gate is replaced by when it opens, if that is known."""
    if not isinstance(node, Mapping) or opening is None:
        return node
    if _target(node).startswith(GATES) and not _target(node).endswith(("Memory", "PosteriorMean", "CredibleBound")):
        return opening
    return {key: _with_opening(value, opening) for key, value in node.items()}


def _opening(config: Mapping[str, Any]) -> str | None:
    """When the gate of a run opens, in words; None = other settings of the gate matter too, or are not known."""
    gate, injector, teacher = (config.get(part) for part in ("gate", "injector", "teacher"))
    group_size = config.get("group_size")
    if not isinstance(gate, Mapping) or not isinstance(group_size, int):
        return None
    if isinstance(injector, Mapping) and not _target(injector).startswith(INJECTORS):
        return None
    if isinstance(teacher, Mapping) and (
        not _target(teacher).startswith(TEACHERS) or _target(teacher).endswith("ConfidenceWeighted")
    ):
        return None  # it may see the gate's estimate of the success rate
    trials = group_size - (isinstance(injector, Mapping) and _target(injector).endswith(".ReplaceSlot"))
    most = _max_successes(gate, trials)
    if most is None:
        return None
    if not 0 <= most < trials:
        return f"their gates {'never' if most < 0 else 'always'} open"
    return f"their gates open iff S {'=' if most == 0 else '≤'} {most} of n = {trials}"


def _max_successes(gate: Mapping[str, Any], trials: int) -> int | None:
    """The largest number of successes at which a gate opens; None = it is no such number, or not known."""
    rule, memory = gate.get("rule"), gate.get("memory")
    kind = _target(gate).removeprefix(GATES).rpartition(".")[2] if _target(gate).startswith(GATES) else ""
    if kind == "FailureGate" and isinstance(gate.get("max_successes", 0), int):
        return int(gate.get("max_successes", 0))
    threshold, prior = gate.get("threshold"), (gate.get("prior_alpha", 1), gate.get("prior_beta", 1))
    numbers = all(isinstance(value, int | float) for value in (threshold, *prior))
    remembers = isinstance(memory, str) or (isinstance(memory, Mapping) and memory.get("discount", 0) != 0)
    if kind != "BetaGate" or not numbers or remembers or threshold is None:
        return None
    if rule is None or (isinstance(rule, Mapping) and _target(rule) == f"{GATES}PosteriorMean"):
        return law.max_successes_to_open(threshold, trials, *prior)
    level = rule.get("level", 0.5) if isinstance(rule, Mapping) else None
    if isinstance(level, int | float) and _target(rule) == f"{GATES}CredibleBound":
        return law.max_successes_of_bound(threshold, trials, level, *prior)
    return None


def _target(part: Mapping[str, Any]) -> str:
    return str(part.get("_target_", ""))
