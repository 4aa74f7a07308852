"""``hapo fabric``: the same module, parts and presets under Lightning Fabric, on several devices and machines.

Fabric launches the processes, moves data, exchanges gradients and shards models; the loop is the dozen lines of
:func:`train`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hapo_lit.cli.run import (
    PRECISIONS,
    RunSession,
    first_process,
    keeper_among,
    must_fit_lengths,
    must_record,
    one_job,
)
from hapo_lit.cli.setup import build, setting_up
from hapo_lit.errors import SetupError
from hapo_lit.policy.sharding import shard
from hapo_lit.rows import UncastRows
from hapo_lit.training.checkpoint_format import check_shards, load
from hapo_lit.training.metrics import for_progress_bar


def main(config: DictConfig) -> float:
    """As ``hapo train``; returns sampled accuracy on rank 0."""
    with one_job():
        return run(config)


def run(config: DictConfig) -> float:
    """The job of one process."""
    fabric: Fabric = instantiate(config.fabric)
    with setting_up():
        opening = RunSession(config, first=first_process())  # what is wrong is said before others are started
    fabric.launch()
    opening.agree(fabric.broadcast)
    data, module, loggers, callbacks = build(config, "data", "module", "logger", "callbacks")
    must_record(config, fabric.world_size, loggers, callbacks)
    must_fit_lengths(module, config)
    stage = FabricTrainerAdapter(fabric, loggers, [each for each in callbacks if not isinstance(each, ProgressBar)])
    keeper = keeper_among(callbacks)
    with setting_up():
        data.rank, data.world_size = fabric.global_rank, fabric.world_size
        data.setup()
        opening.take_up(module, data, keeper)
        facts = opening.begin(module, data)
    with opening.guarded("fabric", module, keeper):
        wrapped = set_up(fabric, module, data)
        if config.fabric.sharded_checkpoints and keeper is not None:
            keeper.write_shards = partial(write_shards, fabric, wrapped)
        if opening.path is not None and opening.path.is_dir():
            load_shards(fabric, wrapped, opening.path)
        try:
            train(stage, wrapped, data, config.steps, config.eval_every)
        finally:
            for logger in loggers:
                logger.save()
        return opening.finish(module, facts)


def set_up(fabric: Fabric, module: Any, data: Any) -> Any:
    """The module under Fabric's wrapper, with its data and its optimiser, which is made of what the wrapper left."""
    wrapped = fabric.setup_module(module)
    wrapped.mark_forward_method("uncast_loss")
    module.data = data
    module.optimizer = fabric.setup_optimizers(module.configure_optimizers())
    return wrapped


def train(stage: FabricTrainerAdapter, wrapped: Any, data: Any, steps: int, eval_every: int) -> None:
    """All steps that are left, with the evaluations that are due."""
    fabric, module = stage.fabric, wrapped.module
    several = isinstance(fabric.strategy, DDPStrategy)
    no_sync = partial(fabric.no_backward_sync, wrapped) if several else nullcontext
    if not module.step:
        evaluate(stage, module, data)
    with stage.progress(steps, module.step) as show:
        batches = iter(data.train_dataloader())
        stage.tell("on_fit_start", module)
        while module.step < steps:
            batch = next(batches).to(fabric.device)
            with fabric.autocast():
                module.run_step(batch, lambda rows: wrapped.uncast_loss(UncastRows(rows)), no_sync)
            stage.tell("on_train_batch_end", module, None, batch, module.step - 1)
            show(module.metrics)
            if module.step % eval_every == 0:
                evaluate(stage, module, data)
    if steps % eval_every:
        evaluate(stage, module, data)  # the last step was not due, and it is what counts


def evaluate(stage: FabricTrainerAdapter, module: Any, data: Any) -> None:
    """Held-out accuracy, by the hooks that the Trainer calls too."""
    if not data.has_heldout:
        return
    module.on_validation_epoch_start()
    for index, batch in enumerate(data.val_dataloader()):
        with stage.fabric.autocast():
            module.validation_step(batch.to(stage.fabric.device), index)
    module.on_validation_epoch_end()
    stage.tell("on_validation_end", module)


class FabricTrainerAdapter:
    """What callbacks see in place of a Trainer, and who calls them."""

    def __init__(self, fabric: Fabric, loggers: list[Any], callbacks: list[Any]) -> None:
        self.fabric, self.loggers, self.callbacks = fabric, loggers, callbacks
        self.is_global_zero, self.world_size = fabric.is_global_zero, fabric.world_size
        self.limit_val_batches = None

    def tell(self, moment: str, *args: Any) -> None:
        """Call a moment's hook of every callback."""
        for callback in self.callbacks:
            getattr(callback, moment)(self, *args)

    def progress(self, steps: int, done: int) -> _Bar:
        return _Bar(steps, done, shown=self.is_global_zero)


class _Bar:
    """The progress bar of the first process, with reward and gate open rate."""

    def __init__(self, steps: int, done: int, shown: bool) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(TextColumn("train"), *columns, TextColumn("{task.fields[said]}"), disable=not shown)
        self.task = self.bar.add_task("train", total=steps, completed=done, said="")

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        self.bar.start()
        return self._show

    def __exit__(self, *args: object) -> None:
        self.bar.stop()

    def _show(self, metrics: dict[str, float]) -> None:
        said = " ".join(f"{name}: {value:.2f}" for name, value in for_progress_bar(metrics).items())
        self.bar.update(self.task, advance=1, said=said)


def open_fabric(
    accelerator: str,
    devices: int | str | list[int],
    num_nodes: int,
    strategy: str,
    precision: str | int,
    sharded_checkpoints: bool,
) -> Fabric:
    """Fabric, with ``strategy=fsdp`` meaning FSDP2.

    Args:
        accelerator, devices, num_nodes: as Fabric takes them.
        strategy: ``auto``, ``ddp`` or ``fsdp``.
        precision: ``32-true`` or ``bf16-mixed``.
        sharded_checkpoints: every process writes its own part of a state; only with fsdp.
    """
    check_settings(strategy, precision, sharded_checkpoints)
    chosen: str | Strategy = strategy
    if strategy == "fsdp":
        chosen = ModelParallelStrategy(parallelize_fn=shard, save_distributed_checkpoint=True)
    return Fabric(
        accelerator=accelerator,
        strategy=chosen,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
    )


def check_settings(strategy: str, precision: str | int, sharded_checkpoints: bool) -> None:
    """Raise ``ValueError`` at what :func:`open_fabric` does not open."""
    if precision not in PRECISIONS:
        raise ValueError(f"fabric.precision={precision} is not supported: set 32-true or bf16-mixed")
    if sharded_checkpoints and strategy != "fsdp":
        raise ValueError("fabric.sharded_checkpoints=true needs fabric.strategy=fsdp: no other strategy has shards")
    if strategy not in ("auto", "ddp", "fsdp"):
        raise ValueError(f"fabric.strategy={strategy} is not supported: set auto, ddp or fsdp")


def write_shards(fabric: Fabric, wrapped: Any, folder: Path, state: dict[str, Any]) -> None:
    """A state in which every process writes its own part of policy and optimiser."""
    optimizer = wrapped.module.optimizer
    state["moments"] = bool(optimizer.optimizer.state)  # before the first update there are none
    fabric.save(folder, {**state, "module": wrapped} | ({"optimizer": optimizer} if state["moments"] else {}))


def load_shards(fabric: Fabric, wrapped: Any, folder: Path) -> None:
    """Policy and optimiser of a sharded state, however many processes wrote it."""
    if not isinstance(fabric.strategy, ModelParallelStrategy):
        raise SetupError(f"{folder} is a sharded state: go on from it with fabric.strategy=fsdp, or use `hapo export`")
    check_shards(wrapped.module, folder)
    moments = load(folder)["moments"]
    optimizer = {"optimizer": wrapped.module.optimizer} if moments else {}
    fabric.load(folder, {"module": wrapped} | optimizer, strict=False, weights_only=False)
