"""What ``hapo train``, ``hapo fabric`` and ``hapo plan`` refuse before a run begins."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from hapo_lit.cli.session import is_rank_0
from hapo_lit.cli.setup import setting_up
from hapo_lit.errors import SetupError
from hapo_lit.policy import attention, model_config
from hapo_lit.policy.vocabulary import check_embeddings, unreadable_ids
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.callbacks.log_metrics import LogMetrics
from hapo_lit.training.interfaces import RunData
from hapo_lit.training.module import HapoModule
from hapo_lit.training.precision import check_precision
from hapo_lit.training.stops import stop_ids
from hapo_lit.training.trial import try_out

MOST_PROCESSES = 64
"""Of a machine, where it has no more cores."""
FIXED_BY_RUN = {
    "max_steps": -1,
    "min_steps": None,
    "max_time": None,
    "min_epochs": None,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "fast_dev_run": False,
    "overfit_batches": 0.0,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "enable_checkpointing": False,
    "use_distributed_sampler": False,
    "reload_dataloaders_every_n_epochs": 0,
    "barebones": False,
    "inference_mode": True,
}
"""Settings of the Trainer that would end, evaluate or update a run otherwise than its own say -> what they must be."""
SAME = {
    "trainer.val_check_interval": "eval_every",
    "trainer.deterministic": "deterministic",
    "trainer.precision": "precision",
    "fabric.precision": "precision",
    "callbacks.checkpointer.evaluate_every": "eval_every",
    "algorithm.group_size": "group_size",
    "rollout.group_size": "group_size",
    "rollout.prompts_per_step": "prompts_per_step",
    "rollout.max_prompt_tokens": "max_prompt_tokens",
    "data.prompts_per_step": "prompts_per_step",
    "data.max_prompt_tokens": "max_prompt_tokens",
    "data.max_response_tokens": "max_response_tokens",
    "module.temperature": "rollout.temperature",
    "phases.steps": "steps",
}
"""Settings that say the same thing as another one, which a run goes by."""
READ_OTHERWISE = ("model.policy", "model.tokenizer", "model.shape")
"""Nothing points to the last: `hapo plan` reads it."""


def checkpointer_in(callbacks: Sequence[object]) -> Checkpointer | None:
    """The callback that saves checkpoints, if there is one."""
    return next((callback for callback in callbacks if isinstance(callback, Checkpointer)), None)


def require_records(
    config: DictConfig, world_size: int, loggers: Sequence[object], callbacks: Sequence[object]
) -> None:
    """Refuse settings under which a run would end without its summary, or measure something else than they say."""
    if not any(isinstance(logger, CSVLogger) for logger in loggers):
        raise SetupError("the summary is made from metrics.csv: keep a CSVLogger in logger (logger=default)")
    if not any(isinstance(callback, LogMetrics) for callback in callbacks):
        raise SetupError("the summary is made from metrics.csv: keep callbacks.metrics (callbacks=default)")
    checkpointer = checkpointer_in(callbacks)
    measured = sorted(f"heldout/{name}" for name in config.evaluators)
    if checkpointer is not None and checkpointer.best not in (None, *measured):
        raise SetupError(
            f"callbacks.checkpointer.best={checkpointer.best} is not measured; there are: {', '.join(measured)} "
            f"and null"
        )
    stop = OmegaConf.select(config, "callbacks.health.stop")
    if stop and checkpointer is None:
        raise SetupError("callbacks.health.stop saves a checkpoint: keep callbacks.checkpointer, or set it to []")
    if config.consistency_every is not None and world_size > 1:
        raise SetupError("consistency_every measures the gradient of one process: leave it null with several")


def check_config(config: DictConfig, launcher: str, strategy: str) -> None:
    """Refuse settings of a run before anything is built.

    Args:
        config: of the run.
        launcher: ``trainer`` or ``fabric``.
        strategy: of several processes.
    """
    check_precision(f"{launcher}.precision", config[launcher].precision)
    check_settings_agree(config)
    check_devices(config[launcher])
    _check_weights_come(config, strategy)


def check_settings_agree(config: DictConfig) -> None:
    """Refuse settings that contradict the run's own, before anything is built."""
    for name, value in FIXED_BY_RUN.items():
        if name in config.get("trainer", {}) and config.trainer[name] != value:
            raise SetupError(
                f"trainer.{name}={config.trainer[name]} contradicts the run's own settings (steps, eval_every, "
                f"save_every, module.max_grad_norm): leave it out"
            )
    _check_model_is_read(config)
    for key, own in SAME.items():
        said, meant = (OmegaConf.select(config, name) for name in (key, own))
        if said is not None and said != meant:
            raise SetupError(f"{key}={said} contradicts {own}={meant}: leave it alone, and set {own}")
    if config.deterministic and OmegaConf.select(config, "rollout.seeded") is False:
        raise SetupError("rollout.seeded=false cannot be repeated, and deterministic=true says it can: set one of them")
    longest = OmegaConf.select(config, "rollout.max_new_tokens")
    if isinstance(longest, int) and longest > config.max_response_tokens:
        raise SetupError(
            f"rollout.max_new_tokens={longest} is more than max_response_tokens={config.max_response_tokens}: set that"
        )


def _check_model_is_read(config: DictConfig) -> None:
    """Refuse a setting of the model that its policy never sees: a new one has no path, and no adapter."""
    written = str(OmegaConf.to_container(config, resolve=False))
    settings = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    if any(setting.lstrip("+").startswith("debug=") for setting in settings):  # which puts a new model in one's place
        return
    for setting in settings:
        key, _, value = setting.lstrip("+").partition("=")
        place = f"model.{key.split('.')[1]}" if key.startswith("model.") else None
        if place not in (None, *READ_OTHERWISE) and value not in ("null", "none") and f"${{{place}}}" not in written:
            raise SetupError(f"nothing reads {place} with this model: leave it out, or set model=hf")


def open_loggers(loggers: Sequence[object]) -> None:
    """Open what loggers write to, where some look at their settings first."""
    for logger in loggers:
        _ = getattr(logger, "experiment", None)


def check_devices(launcher: DictConfig) -> None:
    """Refuse more processes than a machine has: on a CPU each number would be believed, and so many started.

    Args:
        launcher: ``trainer`` or ``fabric``.
    """
    devices, most = launcher.devices, max(MOST_PROCESSES, os.cpu_count() or 1)
    if str(launcher.accelerator) in ("auto", "cpu") and str(devices).isdigit() and int(devices) > most:
        raise SetupError(f"devices={devices} would start so many processes: a machine may have {most}")


def _check_weights_come(config: DictConfig, strategy: str) -> None:
    """Refuse a policy that leaves its weights to shards where none are made."""
    if config.model.policy.get("strategy") == "fsdp" and strategy != "fsdp":
        raise SetupError(
            "model.policy.strategy=fsdp leaves the weights to shards, and there are none: use `hapo fabric` with "
            "fabric.strategy=fsdp, which it follows"
        )


def check_lengths(module: HapoModule, config: DictConfig) -> None:
    """Refuse prompts and responses that the model has no positions for."""
    with setting_up():
        model_config.check_lengths(module.policy.config, config.max_prompt_tokens, config.max_response_tokens)


def check_model(module: HapoModule, data: RunData, config: DictConfig, device: str, precision: str | int) -> None:
    """Refuse a model that does not fit the run, and tell the data where responses stop; before their ``setup``.

    Args:
        module, data, config: of the run.
        device, precision: of its passes.
    """
    check_lengths(module, config)
    _check_attention(module, device, precision)
    _check_tokens(module, data)
    with setting_up():
        try_out(module)


def _check_attention(module: HapoModule, device: str, precision: str | int) -> None:
    """Refuse an attention that does not train on a kind of device, or not in a precision."""
    with setting_up():
        attention.check_runs(module.policy, device, precision == "bf16-mixed")


def _check_tokens(module: HapoModule, data: RunData) -> None:
    """Refuse tokens that would go wrong without a word, and tell the data where responses stop.

    The data check their first prompts themselves.
    """
    with setting_up():
        policy, tokenizer = module.policy, module.tokenizer
        data.stop_ids = stop_ids(policy, tokenizer, module.phases, module.evaluation.evaluators)
        check_embeddings(policy, tokenizer)
    if (unreadable := unreadable_ids(policy)) is not None and is_rank_0():
        rows = policy.get_output_embeddings().weight.shape[0]
        print(f"{len(unreadable):,} of the model's {rows:,} ids have no token: they are neither sampled nor scored")
