"""``hapo train``: Lightning's Trainer opens on the module."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from hapo_lit.cli.pretrain import cached_base_policy
from hapo_lit.cli.setup import SetupError, build, config_folder, door, setting_up


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")
@door
def main(config: DictConfig) -> float:
    """Train, evaluate before and after, write the run's folder, print its summary; returns sampled accuracy."""
    from hapo_lit import analysis

    if config.resume is not None and not Path(config.resume).is_file():
        raise SetupError(f"checkpoint {config.resume!r} does not exist; set resume to RUN/checkpoints/last.ckpt")
    run = Path(config.paths.run)
    if (run / "metrics.csv").exists():
        raise SetupError(f"{run} already holds a run; choose another folder with hydra.run.dir")
    if config.model.path is None:
        config.model.path = str(cached_base_policy())
    data, module, trainer = build(config, "data", "module", "trainer")
    with setting_up():
        data.setup()
    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run / "config.yaml")

    if config.resume is None:
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data, ckpt_path=config.resume, weights_only=False)
    module.policy.save_pretrained(run / "policy")
    module.tokenizer.save_pretrained(run / "policy")
    summary = analysis.summarise(run, data.describe())
    analysis.show(summary)
    print(f"curves: {analysis.plot_anneal(run)}")
    print(f"run folder: {run} (tensorboard --logdir {run})")
    return float(summary["sampled_after"])
