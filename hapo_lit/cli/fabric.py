"""``hapo fabric``: the same module, parts and presets under Lightning Fabric, on several devices and machines.

Fabric launches the processes, moves data, exchanges gradients and shards models.
"""

from __future__ import annotations

from hydra.utils import instantiate
from lightning import Fabric
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from hapo_lit.cli.checks import check_config, check_model, checkpointer_in, open_loggers, require_records
from hapo_lit.cli.session import RunSession, is_rank_0, isolated_job
from hapo_lit.cli.setup import build, setting_up
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.training.fabric_loop import FabricTrainerAdapter, train
from hapo_lit.training.fabric_setup import keeps_shards, set_up
from hapo_lit.training.interfaces import RunCallback
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import trained_parameters, unwrapped
from hapo_lit.training.shards import ShardWriter, load_shards


def main(config: DictConfig) -> float:
    """As ``hapo train``; returns sampled accuracy on rank 0."""
    with isolated_job():
        return run(config)


def run(config: DictConfig) -> float:
    """The job of one process."""
    with setting_up():
        fabric, session, module, data, loggers, callbacks = set_up_parts(config)
        facts = session.begin(module, data, fabric.device.type)
        open_loggers(loggers)
    checkpointer, is_sharded = checkpointer_in(callbacks), config.fabric.strategy == "fsdp"
    with session.training("fabric", module, checkpointer):
        wrapped = set_up(fabric, module, data)
        shards = session.checkpoint if is_sharded else None
        if shards is not None and shards.is_dir() and module.optimizer is not None:
            load_shards(module, unwrapped(module.optimizer), trained_parameters(module.policy), shards)
        if checkpointer is not None and keeps_shards(
            config.fabric.strategy, fabric.world_size, config.fabric.sharded_checkpoints
        ):
            checkpointer.shards = ShardWriter(module, in_background=config.fabric.async_checkpoints is not False)
        try:
            adapter = FabricTrainerAdapter(fabric, loggers, callbacks)
            train(adapter, wrapped, data, config.steps, config.eval_every)
        finally:
            for logger in loggers:
                logger.save()
        return session.finish(module, data, facts)


def set_up_parts(
    config: DictConfig,
) -> tuple[Fabric, RunSession, HapoModule, MathDataModule, list[Logger], list[RunCallback]]:
    """What runs, checked, and put where the run resumes; other processes are started on the way."""
    check_config(config, "fabric", config.fabric.strategy)
    fabric: Fabric = instantiate(config.fabric)
    session = RunSession(config, is_rank_0())  # what is wrong is said before other processes are started
    fabric.launch()
    session.follow_rank_0(fabric.broadcast)
    session.choose_checkpoint()
    data, module, loggers, callbacks = build(config, "data", "module", "logger", "callbacks")
    require_records(config, fabric.world_size, loggers, callbacks)
    check_model(module, data, config, fabric.device.type, config.fabric.precision)
    callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]  # which is the Trainer's
    data.rank, data.world_size = fabric.global_rank, fabric.world_size
    data.setup()
    session.restore(module, data, checkpointer_in(callbacks), config.fabric.strategy == "fsdp")
    return fabric, session, module, data, loggers, callbacks
