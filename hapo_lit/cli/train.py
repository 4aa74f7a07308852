"""``hapo train``: Lightning's Trainer opens on the module."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import hydra
import torch
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from hapo_lit import analysis
from hapo_lit.cli.light import SetupError, config_folder, cut
from hapo_lit.cli.pretrain import cached_base_policy
from hapo_lit.cli.setup import build, door, setting_up
from hapo_lit.protocols import Lawful

DATA_LINE = (
    "data: {size}, {heldout_problems} held out, {prompt_too_long} prompts too long; teachers{of}: "
    "{teacher_usable} usable, {teacher_rejected} rejected, {teacher_too_long} too long, {teacher_absent} absent"
)


def report_data(data: Any) -> dict[str, float]:
    """Print what the data are; returns the facts."""
    facts: dict[str, float] = data.describe()
    judged = sum(facts[f"teacher_{fate}"] for fate in ("usable", "rejected", "too_long", "absent"))
    size = f"{facts['train_problems']:,.0f} problems" if facts["train_problems"] else "a stream of problems"
    part = "" if judged == facts["train_problems"] else f" of {judged} looked at"
    print(DATA_LINE.format(size=size, of=part, **facts))
    if dropped := data.dropped():
        print(f"rows: {dropped}")
    if not facts["teacher_usable"]:
        print("warning: no teacher can be used, so nothing will ever be injected or imitated", file=sys.stderr)
    prompt, teacher = data.sample()
    print(f"a prompt: {shortened(prompt)}\nits teacher: {shortened(teacher)}")
    return facts


def shortened(text: str, length: int = 300) -> str:
    """A text on one line, its middle left out if it is long."""
    return cut(repr(text), length)


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")
@door
def main(config: DictConfig) -> float:
    """Train, evaluate before and after, write the run's folder, print its summary; returns sampled accuracy."""
    run = Path(config.paths.run)
    if (run / "metrics.csv").exists():
        raise SetupError(f"{run} already holds a run; choose another folder with hydra.run.dir")
    done = steps_done(config.resume)
    if config.model.path is None:
        config.model.path = str(cached_base_policy())
    data, module, trainer = build(config, "data", "module", "trainer")
    check(trainer, config.steps)
    with setting_up():
        data.setup()
        facts = report_data(data)
    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run / "config.yaml")

    if config.resume is None:
        trainer.validate(module, datamodule=data, verbose=False)
    else:
        analysis.carry_over(Path(config.resume).parent.parent, run, done)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=config.resume, weights_only=False)
    except SystemExit:  # how Lightning ends after Ctrl-C
        last = run / "checkpoints/last.ckpt"
        where = f"run again with resume={last} and another run folder" if last.exists() else "no checkpoint was due yet"
        print(f"stopped in step {module.step + 1}; to go on: {where}")
        raise
    if module.step % config.eval_every:
        trainer.validate(module, datamodule=data, verbose=False)  # the last step was not due, and it is what counts
    module.policy.save_pretrained(run / "policy")
    module.tokenizer.save_pretrained(run / "policy")
    summary = analysis.summarise(run, facts)
    analysis.show(summary)
    gate = getattr(module.phases.at(config.steps - 1).algorithm, "gate", None)
    if isinstance(gate, Lawful) and (run / "groups.csv").exists():
        report = analysis.injection_by_pass_rate(run, gate.chance)
        if len(report):
            analysis.show_injection(report)
    print(f"curves: {analysis.plot_anneal(run)}")
    print(f"run folder: {run} (tensorboard --logdir {run})")
    return summary.get("sampled_after", float("nan"))


def steps_done(checkpoint: str | None) -> int:
    """How far the run of a checkpoint had come; 0 without one."""
    if checkpoint is None:
        return 0
    if not Path(checkpoint).is_file():
        raise SetupError(f"checkpoint {checkpoint!r} does not exist; set resume to RUN/checkpoints/last.ckpt")
    try:
        step: int = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)["hapo"]["step"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise SetupError(f"{checkpoint!r} is damaged or no checkpoint of hapo_lit; try an older one") from error
    return step


def check(trainer: Any, steps: int) -> None:
    """Refuse what this door cannot do yet, or not without its figures being wrong."""
    if trainer.max_epochs != 1 or trainer.limit_train_batches != steps:
        raise SetupError("the length of a run is set by steps: leave trainer.max_epochs and limit_train_batches alone")
    if trainer.world_size > 1:
        raise SetupError("`hapo train` runs one process: set trainer.devices=1 (several come with a door of their own)")
    if str(trainer.precision).startswith("16"):
        raise SetupError("gradients would be clipped before they are unscaled: set trainer.precision=bf16-mixed")
    if not any(isinstance(logger, CSVLogger) for logger in trainer.loggers):
        raise SetupError("the summary is made from metrics.csv: keep a CSVLogger in trainer.logger (trainer=default)")
