"""The training loop of ``hapo fabric``: the calls that Lightning's Trainer makes, in a dozen lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

from lightning import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.wrappers import _FabricModule
from lightning.pytorch.loggers import Logger
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hapo_lit.policy.sharding import within_replicas
from hapo_lit.rows import UncastRows
from hapo_lit.training.fabric_setup import module_in
from hapo_lit.training.interfaces import RunCallback, RunData
from hapo_lit.training.metrics import for_progress_bar
from hapo_lit.training.module import HapoModule, NoSync


class FabricTrainerAdapter:
    """What callbacks see in place of a Trainer, and what calls them."""

    limit_val_batches = None

    def __init__(self, fabric: Fabric, loggers: Sequence[Logger], callbacks: Sequence[RunCallback]) -> None:
        self.fabric, self.loggers, self.callbacks = fabric, loggers, callbacks
        self.is_global_zero = fabric.is_global_zero

    def call(self, hook: str, *arguments: object) -> None:
        """Call a hook of every callback."""
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)


def train(adapter: FabricTrainerAdapter, wrapped: _FabricModule, data: RunData, steps: int, eval_every: int) -> None:
    """All steps that are left, with the evaluations that are due."""
    fabric, module = adapter.fabric, module_in(wrapped)
    no_sync: NoSync = nullcontext
    if isinstance(fabric.strategy, DDPStrategy):
        no_sync = partial(fabric.no_backward_sync, wrapped)
    elif isinstance(fabric.strategy, ModelParallelStrategy):
        no_sync = partial(within_replicas, module)
    if not module.step:
        evaluate(adapter, module, data)
    with _Bar(steps, module.step, shown=adapter.is_global_zero) as show:
        batches = iter(data.train_dataloader())
        adapter.call("on_fit_start", module)
        while module.step < steps:
            batch = next(batches).to(fabric.device)
            with fabric.autocast():
                module.run_step(batch, lambda rows: wrapped.uncast_loss(UncastRows(rows)), no_sync)
            adapter.call("on_train_batch_end", module, None, batch, module.step - 1)
            show(module.metrics)
            if module.step % eval_every == 0:
                evaluate(adapter, module, data)
    if steps % eval_every:
        evaluate(adapter, module, data)  # the last step was not due, and it is what counts


def evaluate(adapter: FabricTrainerAdapter, module: HapoModule, data: RunData) -> None:
    """Held-out accuracy, by the hooks that the Trainer calls too."""
    if not data.has_heldout:
        return
    module.on_validation_epoch_start()
    for index, batch in enumerate(data.val_dataloader()):
        with adapter.fabric.autocast():
            module.validation_step(batch.to(adapter.fabric.device), index)
    module.on_validation_epoch_end()
    adapter.call("on_validation_end", module)


class _Bar:
    """The progress bar of rank 0, with some metrics of the last step."""

    def __init__(self, steps: int, done: int, shown: bool) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(TextColumn("train"), *columns, TextColumn("{task.fields[metrics]}"), disable=not shown)
        self.task = self.bar.add_task("train", total=steps, completed=done, metrics="")

    def __enter__(self) -> Callable[[Mapping[str, float]], None]:
        self.bar.start()
        return self._show

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def _show(self, metrics: Mapping[str, float]) -> None:
        shown = " ".join(f"{name}: {value:.2f}" for name, value in for_progress_bar(metrics).items())
        self.bar.update(self.task, advance=1, metrics=shown)
