"""``hapo pretrain``: the base policy of the embedded experiment, trained once and cached by its fingerprint."""

from __future__ import annotations

from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from hapo_lit import __version__
from hapo_lit.cli.setup import build
from hapo_lit.data import arithmetic
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.storage.atomic import appearing

RECIPE = ("model", "data", "phases", "optim", "seed", "threads")
"""The parts of the configuration on which the base policy's weights depend."""


def main(config: DictConfig) -> None:
    print(f"base policy: {base_policy(config)}")


def cached_base_policy() -> Path:
    """The folder of the base policy that ``hapo pretrain`` builds, for the commands that start from it."""
    assert GlobalHydra.instance().is_initialized()
    return base_policy(compose("pretrain"))


def base_policy(config: DictConfig) -> Path:
    """The Hugging Face folder of this base policy; it is trained if it is not in the cache.

    The fingerprint in the folder's name covers what the weights depend on: :data:`RECIPE`, the version of the package
    and that of the problems.
    """
    OmegaConf.resolve(config)
    recipe = OmegaConf.to_yaml(OmegaConf.masked_copy(config, list(RECIPE)))
    fingerprint = stable_hash(f"{__version__} {arithmetic.VERSION}\n{recipe}", 6).hex()
    folder = Path(config.paths.cache) / f"base-{fingerprint}"
    if folder.is_dir():
        return folder
    print(f"building the base policy (about a minute, once): {folder}", flush=True)
    data, module, trainer = build(config, "data", "module", "trainer")
    trainer.fit(module, datamodule=data)
    with appearing(folder, shared=True) as draft:
        module.policy.save_pretrained(draft)
        module.tokenizer.save_pretrained(draft)
        (draft / "recipe.yaml").write_text(recipe)
    return folder
