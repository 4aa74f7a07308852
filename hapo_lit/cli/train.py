"""``hapo train``: a run under Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from hapo_lit.cli.checks import check_config, check_model, checkpointer_in, open_loggers, require_records
from hapo_lit.cli.session import RunSession, is_rank_0, isolated_job
from hapo_lit.cli.setup import build, setting_up
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.errors import SetupError, one_line
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.device import chosen_accelerator
from hapo_lit.training.module import HapoModule


def main(config: DictConfig) -> float:
    """Train, evaluate before and after, write the run's folder, print its summary; returns sampled accuracy."""
    with isolated_job():
        return run(config)


def run(config: DictConfig) -> float:
    """The job of one process."""
    with setting_up():
        session, module, data, trainer, checkpointer = set_up(config)
        facts = session.begin(module, data, trainer.strategy.root_device.type)
        open_loggers(trainer.loggers)
    done, steps = module.step, config.steps
    with session.training("train", module, checkpointer), refusals_of_the_trainer():
        if not done:
            trainer.validate(module, datamodule=data, verbose=False)
        if done < steps:
            trainer.limit_train_batches = steps - done
            trainer.fit_loop.epoch_loop.batch_progress.total.ready = done  # what evaluations are counted from
            trainer.fit(module, datamodule=data)
        if steps % config.eval_every:
            trainer.validate(module, datamodule=data, verbose=False)  # the last step was not due, and it is what counts
        return session.finish(module, data, facts)


@contextmanager
def refusals_of_the_trainer() -> Iterator[None]:
    """Inside, what Lightning finds wrong with its settings, some only once a loop begins, is a ``SetupError``."""
    try:
        yield
    except MisconfigurationException as error:
        raise SetupError(f"trainer: {one_line(str(error))}") from error


def set_up(config: DictConfig) -> tuple[RunSession, HapoModule, MathDataModule, Trainer, Checkpointer | None]:
    """What runs, checked, and put where the run resumes."""
    if str(config.trainer.strategy) not in ("auto", "ddp"):
        raise SetupError(
            f"trainer.strategy={config.trainer.strategy} is not supported: set auto or ddp, or use `hapo fabric`"
        )
    check_config(config, "trainer", "auto")
    session = RunSession(config, is_rank_0())
    session.choose_checkpoint()
    config.trainer.accelerator = chosen_accelerator(config.trainer.get("accelerator", "auto"))
    data, module, trainer = build(config, "data", "module", "trainer")
    check(trainer, config)
    check_model(module, data, config, trainer.strategy.root_device.type, config.trainer.precision)
    checkpointer = checkpointer_in(trainer.callbacks)
    data.rank, data.world_size = trainer.global_rank, trainer.world_size
    data.setup()
    session.restore(module, data, checkpointer)
    return session, module, data, trainer, checkpointer


def check(trainer: Trainer, config: DictConfig) -> None:
    """Refuse settings of the Trainer that would not do what they say, or make the figures of the run wrong."""
    if trainer.max_epochs != 1 or trainer.limit_train_batches != config.steps:
        raise SetupError("the length of a run is set by steps: leave trainer.max_epochs and limit_train_batches alone")
    require_records(config, trainer.world_size, trainer.loggers, trainer.callbacks)  # type: ignore[attr-defined]
