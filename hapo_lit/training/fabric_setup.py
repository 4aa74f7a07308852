"""Lightning Fabric for a run: opening it, wrapping the module, and checkpoints in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from lightning import Fabric
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from lightning.fabric.wrappers import _FabricModule
from torch.optim import Optimizer

from hapo_lit.errors import SetupError
from hapo_lit.policy.sharding import shard
from hapo_lit.training.checkpoint_format import check_shards, load
from hapo_lit.training.device import chosen_accelerator
from hapo_lit.training.interfaces import RunData
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import unwrapped
from hapo_lit.training.precision import check_precision
from hapo_lit.training.run_state import RunState


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
        accelerator: as Fabric takes it; see :func:`hapo_lit.training.device.chosen_accelerator`.
        devices, num_nodes: as Fabric takes them.
        strategy: ``auto``, ``ddp`` or ``fsdp``.
        precision: ``32-true`` or ``bf16-mixed``.
        sharded_checkpoints: every process writes its own part of a checkpoint; only with fsdp.
    """
    check_settings(strategy, precision, sharded_checkpoints)
    chosen: str | Strategy = strategy
    if strategy == "fsdp":
        chosen = ModelParallelStrategy(parallelize_fn=shard, save_distributed_checkpoint=True)
    return Fabric(
        accelerator=chosen_accelerator(accelerator),
        strategy=chosen,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
    )


def check_settings(strategy: str, precision: str | int, sharded_checkpoints: bool) -> None:
    """Raise ``ValueError`` at what :func:`open_fabric` does not open."""
    check_precision("fabric.precision", precision)
    if sharded_checkpoints and strategy != "fsdp":
        raise ValueError("fabric.sharded_checkpoints=true needs fabric.strategy=fsdp: no other strategy has shards")
    if strategy not in ("auto", "ddp", "fsdp"):
        raise ValueError(f"fabric.strategy={strategy} is not supported: set auto, ddp or fsdp")


def set_up(fabric: Fabric, module: HapoModule, data: RunData) -> _FabricModule:
    """The module under Fabric's wrapper, with its data and its optimiser, which is made of what the wrapper left."""
    wrapped = fabric.setup_module(module)
    wrapped.mark_forward_method("uncast_loss")
    module.data = data
    module.optimizer = cast(Optimizer, fabric.setup_optimizers(module.configure_optimizers()))
    return wrapped


def module_in(wrapped: _FabricModule) -> HapoModule:
    """The module that Fabric has wrapped."""
    return cast(HapoModule, wrapped.module)


def write_shards(fabric: Fabric, wrapped: _FabricModule, folder: Path, state: RunState) -> None:
    """Write a checkpoint in which every process has its own part of policy and optimiser."""
    optimizer = module_in(wrapped).optimizer
    assert optimizer is not None
    state["moments"] = bool(unwrapped(optimizer).state)  # before the first update there are none
    fabric.save(folder, {**state, "module": wrapped} | ({"optimizer": optimizer} if state["moments"] else {}))


def load_shards(fabric: Fabric, wrapped: _FabricModule, folder: Path) -> None:
    """Load policy and optimiser from a sharded checkpoint, however many processes wrote it."""
    if not isinstance(fabric.strategy, ModelParallelStrategy):
        raise SetupError(
            f"{folder} is a sharded checkpoint: resume it with fabric.strategy=fsdp, or make a model.path of it with "
            f"`hapo export`"
        )
    check_shards(module_in(wrapped), folder)
    optimizer: dict[str, Any] = {"optimizer": module_in(wrapped).optimizer} if load(folder)["moments"] else {}
    fabric.load(folder, {"module": wrapped} | optimizer, strict=False, weights_only=False)
