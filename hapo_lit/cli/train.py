"""``hapo train``: Lightning's Trainer opens on the module."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

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
from hapo_lit.training.checkpoint_format import is_sharded


def main(config: DictConfig) -> float:
    """Train, evaluate before and after, write the run's folder, print its summary; returns sampled accuracy."""
    if str(config.trainer.strategy) not in ("auto", "ddp"):
        raise SetupError(
            f"trainer.strategy={config.trainer.strategy} is not for this door: set auto or ddp, or use `hapo fabric`"
        )
    with one_job():
        return run(config)


def run(config: DictConfig) -> float:
    """The job of one process."""
    with setting_up():
        opening = RunSession(config, first=first_process())
    if opening.path is not None and is_sharded(opening.path):
        raise SetupError(
            f"{opening.path} is a sharded state: `hapo fabric` goes on from it with fabric.strategy=fsdp, or make a "
            f"model.path of it with `hapo export`"
        )
    data, module, trainer = build(config, "data", "module", "trainer")
    check(trainer, config)
    must_fit_lengths(module, config)
    keeper = keeper_among(trainer.callbacks)
    with setting_up():
        data.rank, data.world_size = trainer.global_rank, trainer.world_size
        data.setup()
        opening.take_up(module, data, keeper)
        facts = opening.begin(module, data)
    done, steps = module.step, config.steps
    with opening.guarded("train", module, keeper):
        if not done:
            trainer.validate(module, datamodule=data, verbose=False)
        if done < steps:
            trainer.limit_train_batches = steps - done
            trainer.fit_loop.epoch_loop.batch_progress.total.ready = done  # what evaluations are counted from
            trainer.fit(module, datamodule=data)
        if steps % config.eval_every:
            trainer.validate(module, datamodule=data, verbose=False)  # the last step was not due, and it is what counts
        return opening.finish(module, facts)


def check(trainer: Any, config: DictConfig) -> None:
    """Refuse what this door cannot do, or not without its figures being wrong."""
    if trainer.max_epochs != 1 or trainer.limit_train_batches != config.steps:
        raise SetupError("the length of a run is set by steps: leave trainer.max_epochs and limit_train_batches alone")
    if trainer.precision not in PRECISIONS:
        raise SetupError(f"trainer.precision={trainer.precision} is not supported: set 32-true or bf16-mixed")
    must_record(config, trainer.world_size, trainer.loggers, trainer.callbacks)
