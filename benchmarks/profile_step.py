"""What a training step spends its CPU time on, by kind of operation: of the default run, or with other settings.

    python -m benchmarks.profile_step                        # hapo train steps=60; the base policy is built once
    python -m benchmarks.profile_step experiment=smoke       # the same with other settings
    python -m benchmarks.profile_step --verb fabric

From step :data:`FIRST` on torch.profiler looks at one step of four, and the others are only timed.  Shares are of the
CPU seconds of those.  The profiler makes a step longer, by the same for each event: an operation's seconds are
without that of the events inside it.  What is inside no operation is Python, and the way from it to operations.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it would report each start and end

from rich.console import Console
from rich.table import Table
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from hapo_lit.cli import main as hapo
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer

FIRST, STEPS = 20, 60
"""The step after which it is measured, and the steps of the run."""
PRODUCTS, ATTENTION, OPTIMISER, DRAW = "matrix products", "attention", "optimiser", "draw of tokens"
NAMED = (PRODUCTS, ATTENTION, OPTIMISER, DRAW)
"""What a step should spend its time on."""
PATTERNS = {
    PRODUCTS: r"aten::(linear|matmul|mm|bmm|addmm|baddbmm|addbmm|mv|addmv)_?",
    ATTENTION: r"aten::_?scaled_dot_product.*",
    OPTIMISER: r"Optimizer\.step#.*",
    DRAW: DRAW,
}
"""Names of events, by kind."""
PHASES = ("time/rollout", "time/verify", "time/score", "time/update")
LISTED = 12
"""Other operations that have a line of their own."""


class StepProfile(RunCallback):
    """Times the steps of a run, each with its callbacks, and profiles one of four."""

    made: ClassVar[list[StepProfile]] = []
    """Those of this process, which the command makes."""

    def __init__(self) -> None:
        self.plain: list[float] = []
        """CPU seconds of each step that is not profiled."""
        self.phases: Counter[str] = Counter()
        """CPU seconds of these by the names under ``time/``, summed."""
        self.profiled: list[float] = []
        """CPU seconds of each step that is."""
        self.seconds: Counter[str] = Counter()
        """CPU seconds of these by label, summed."""
        self.inside: Counter[str] = Counter()
        """Events that are inside another event, by the label of that one."""
        self.events = 0
        self._profile: profile | None = None
        self._began = (0.0, 0.0)
        self.made.append(self)

    def on_train_batch_end(self, trainer: RunTrainer, pl_module: RunModule, *args: object) -> None:
        if pl_module.step > FIRST:
            self._stop(pl_module.metrics)
        if pl_module.step >= FIRST:
            self._profile = profile(activities=[ProfilerActivity.CPU]) if pl_module.step % 4 == 1 else None
            if self._profile is not None:
                self._profile.start()
            self._began = time.process_time(), time.perf_counter()

    def _stop(self, metrics: Mapping[str, float]) -> None:
        cpu, wall = time.process_time() - self._began[0], time.perf_counter() - self._began[1]
        if self._profile is None:
            self.plain.append(cpu)
            self.phases.update({name: metrics.get(name, 0.0) * cpu / wall for name in PHASES})
            return
        self._profile.stop()
        self.profiled.append(cpu)
        for event in self._profile.events():
            self.events += 1
            if event.cpu_parent is not None:
                self.inside[label(event.cpu_parent)] += 1
            if (name := label(event)) not in NAMED:
                self.seconds[name] += event.self_cpu_time_total / 1e6 * cpu / wall
            elif kind_around(event) is None:
                self.seconds[name] += event.cpu_time_total / 1e6 * cpu / wall

    def by_label(self) -> dict[str, float]:
        """CPU seconds of a step by label, without what the profiler adds."""
        added = (median(self.profiled) - median(self.plain)) * len(self.profiled) / self.events
        return {
            name: max(seconds - added * self.inside[name], 0) / len(self.profiled)
            for name, seconds in self.seconds.items()
        }


def kind(event: FunctionEvent) -> str | None:
    """The kind of an event by its name; None = it has none."""
    return next((name for name, pattern in PATTERNS.items() if re.fullmatch(pattern, event.name)), None)


def kind_around(event: FunctionEvent) -> str | None:
    """The kind of the outermost event around another that has one."""
    found, parent = None, event.cpu_parent
    while parent is not None:
        found, parent = kind(parent) or found, parent.cpu_parent
    return found


def label(event: FunctionEvent) -> str:
    """What an event's time counts for: a kind, or its own name."""
    own = kind_around(event) or kind(event) or event.name
    return "autograd's own" if own.startswith("autograd::") or own.endswith("Backward0") else own


def recorded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function that the profiler shows as an event of its own."""

    def called(*arguments: Any, **named: Any) -> Any:
        with record_function(name):
            return function(*arguments, **named)

    return called


def lines_of(found: StepProfile) -> list[tuple[str, float]]:
    """The lines of the table, with milliseconds of a step; the first is that of the whole step."""
    step, seconds = mean(found.plain), found.by_label()
    others = sorted((name for name in seconds if name not in NAMED), key=lambda name: -seconds[name])
    python = step - sum(seconds.values())
    rows = [("a step", step), *((name, seconds.get(name, 0.0)) for name in NAMED)]
    rows += [("these together", sum(seconds.get(name, 0.0) for name in NAMED))]
    rows += [("other operations", sum(seconds[name] for name in others)), ("Python and dispatch", python)]
    rows += [(f"of other operations: {name}", seconds[name]) for name in others[:LISTED]]
    rows += [(f"by phase: {name}", total / len(found.plain)) for name, total in found.phases.most_common()]
    return [(name, 1000 * value) for name, value in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=f"of the run; steps={STEPS} unless set")
    parser.add_argument("--verb", choices=["train", "fabric"], default="train")
    options = parser.parse_args(arguments)
    from benchmarks.profile_step import StepProfile  # the module that the command imports, not __main__

    HFEngine._draw = recorded(HFEngine._draw, DRAW)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"steps={STEPS}", "eval_every=1000", *options.settings, f"hydra.run.dir={Path(folder) / 'run'}"]
        hapo([options.verb, *settings, "+callbacks.profile._target_=benchmarks.profile_step.StepProfile"])
    (found,) = StepProfile.made
    rows = lines_of(found)
    table = Table(title=f"CPU time of a step: hapo {' '.join([options.verb, *settings[:-1]])}")
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for name, milliseconds in rows:
        table.add_row(name, f"{milliseconds:.2f}", f"{milliseconds / rows[0][1]:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
