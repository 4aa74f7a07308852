"""Lightning Fabric for a run: opening it, and wrapping the module."""

from __future__ import annotations

from functools import partial
from typing import cast

from lightning import Fabric
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from lightning.fabric.wrappers import _FabricModule
from torch.optim import Optimizer

from hapo_lit.numerics.ranges import check_count
from hapo_lit.policy.sharding import shard
from hapo_lit.training.device import chosen_accelerator
from hapo_lit.training.interfaces import RunData
from hapo_lit.training.module import HapoModule
from hapo_lit.training.precision import check_precision

MOST_NODES = 65536


def open_fabric(
    accelerator: str,
    devices: int | str | list[int],
    num_nodes: int,
    strategy: str,
    precision: str | int,
    sharded_checkpoints: bool | None = None,
    async_checkpoints: bool | None = None,
    replicas: int = 1,
    reshard_after_forward: bool = True,
) -> Fabric:
    """Fabric, with ``strategy=fsdp`` meaning FSDP2.

    Args:
        accelerator: as Fabric takes it; see :func:`hapo_lit.training.device.chosen_accelerator`.
        devices, num_nodes: as Fabric takes them.
        strategy: ``auto``, ``ddp`` or ``fsdp``.
        precision: ``32-true`` or ``bf16-mixed``.
        sharded_checkpoints, async_checkpoints: see :func:`keeps_shards` and :func:`check_settings`.
        replicas, reshard_after_forward: with fsdp, see :func:`hapo_lit.policy.sharding.shard`.

    Raises:
        ValueError: a setting is not supported, or needs another.
    """
    check_settings(strategy, precision, sharded_checkpoints, async_checkpoints)
    check_count("num_nodes", num_nodes, most=MOST_NODES)
    chosen: str | Strategy = strategy
    if strategy == "fsdp":
        mixed = precision == "bf16-mixed"
        sharded = partial(shard, replicas=replicas, reshard_after_forward=reshard_after_forward, mixed=mixed)
        chosen = ModelParallelStrategy(parallelize_fn=sharded)
        precision = "32-true"  # the layers know what they compute in, and autocast would keep casts of all of them
    fabric = Fabric(
        accelerator=chosen_accelerator(accelerator),
        strategy=chosen,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
    )
    processes = getattr(fabric.strategy, "num_processes", 1) * num_nodes
    check_layout(strategy, processes, replicas, reshard_after_forward)
    return fabric


def keeps_shards(strategy: str, processes: int, sharded_checkpoints: bool | None) -> bool:
    """Whether every process writes its own part of a checkpoint; None = where models are sharded over several."""
    return strategy == "fsdp" and processes > 1 if sharded_checkpoints is None else sharded_checkpoints


def check_settings(
    strategy: str, precision: str | int, sharded_checkpoints: bool | None, async_checkpoints: bool | None
) -> None:
    """Raise ``ValueError`` at what :func:`open_fabric` does not open.

    ``async_checkpoints`` says whether training goes on while shards are written; None = it does.
    """
    check_precision("fabric.precision", precision)
    if strategy not in ("auto", "ddp", "fsdp"):
        raise ValueError(f"fabric.strategy={strategy} is not supported: set auto, ddp or fsdp")
    if sharded_checkpoints and strategy != "fsdp":
        raise ValueError("fabric.sharded_checkpoints=true needs fabric.strategy=fsdp: no other strategy has shards")
    if async_checkpoints and (strategy != "fsdp" or sharded_checkpoints is False):
        raise ValueError(
            "fabric.async_checkpoints=true needs fabric.strategy=fsdp and sharded checkpoints: only shards are written "
            "while training goes on"
        )


def check_layout(strategy: str, processes: int, replicas: int, reshard_after_forward: bool) -> None:
    """Raise ``ValueError`` unless the processes can share models like that."""
    if type(replicas) is not int or replicas < 1:
        raise ValueError(f"fabric.replicas must be a whole number of at least 1, got {replicas!r}")
    if replicas > 1 and strategy != "fsdp":
        raise ValueError(
            f"fabric.replicas={replicas} needs fabric.strategy=fsdp: with any other every process holds all weights"
        )
    if processes % replicas:
        raise ValueError(
            f"fabric.replicas={replicas} does not divide processes={processes}: set one of "
            f"{', '.join(str(count) for count in range(1, processes + 1) if processes % count == 0)}"
        )
    if not isinstance(reshard_after_forward, bool):
        raise ValueError(f"fabric.reshard_after_forward must be true or false, got {reshard_after_forward!r}")
    if not reshard_after_forward and strategy != "fsdp":
        raise ValueError("fabric.reshard_after_forward=false needs fabric.strategy=fsdp: no other strategy has shards")


def set_up(fabric: Fabric, module: HapoModule, data: RunData) -> _FabricModule:
    """The module under Fabric's wrapper, with its data and its optimiser, which is made of what the wrapper left."""
    is_sharded = isinstance(fabric.strategy, ModelParallelStrategy)  # which brings the shards to the device itself
    wrapped = fabric.setup_module(module, move_to_device=not is_sharded)
    wrapped.mark_forward_method("uncast_loss")
    module.data = data
    module.optimizer = cast(Optimizer, fabric.setup_optimizers(module.configure_optimizers()))
    return wrapped


def module_in(wrapped: _FabricModule) -> HapoModule:
    """The module that Fabric has wrapped."""
    return cast(HapoModule, wrapped.module)
