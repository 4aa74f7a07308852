"""``hapo pretrain``: the base policy of the embedded experiment, trained once and cached by its fingerprint."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from hapo_lit import __version__
from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.setup import build, door
from hapo_lit.data import arithmetic

RECIPE = ("model", "data", "phases", "optim", "seed", "threads")
"""The parts of the configuration that decide what the base policy becomes."""


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="pretrain")
@door
def main(config: DictConfig) -> None:
    print(f"base policy: {base_policy(config)}")


def cached_base_policy() -> Path:
    """The folder of the base policy that ``hapo pretrain`` builds, from inside another door."""
    assert GlobalHydra.instance().is_initialized()
    return base_policy(compose("pretrain"))


def base_policy(config: DictConfig) -> Path:
    """The Hugging Face folder of this base policy; it is trained if it is not in the cache.

    The fingerprint covers what the weights depend on: :data:`RECIPE`, the package's version and the generator's.
    The folder appears under its name only when it is complete.
    """
    OmegaConf.resolve(config)
    cache = Path(config.paths.cache)
    recipe = OmegaConf.to_yaml(OmegaConf.masked_copy(config, list(RECIPE)))
    fingerprint = hashlib.blake2b(f"{__version__} {arithmetic.VERSION}\n{recipe}".encode(), digest_size=6)
    name = f"base-{fingerprint.hexdigest()}"
    folder = cache / name
    if folder.is_dir():
        return folder
    print(f"building the base policy (about a minute, once): {folder}", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    data, module, trainer = build(config, "data", "module", "trainer")
    trainer.fit(module, datamodule=data)
    unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=f".{name}-"))
    module.policy.save_pretrained(unfinished)
    module.tokenizer.save_pretrained(unfinished)
    (unfinished / "recipe.yaml").write_text(recipe)
    try:
        os.rename(unfinished, folder)
    except OSError:  # another process finished the same policy first
        if not folder.is_dir():
            raise
        shutil.rmtree(unfinished)
    return folder
