"""``hapo pretrain``: the base policy of the embedded experiment, trained once and cached under its key."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from hapo_lit.cli.setup import build, setting_up
from hapo_lit.data import arithmetic
from hapo_lit.storage.atomic import appearing, remove
from hapo_lit.storage.cache_key import cache_key
from hapo_lit.storage.checksums import damage, list_files
from hapo_lit.training.finite import require_finite
from hapo_lit.training.trial import try_out

RECIPE = ("model", "data", "phases", "optim", "module", "precision", "steps", "seed", "threads")
"""The parts of the configuration on which the base policy's weights depend."""
LIBRARIES = ("torch", "transformers", "tokenizers")
"""What decides the weights besides our code."""


def main(config: DictConfig) -> None:
    print(f"base policy: {base_policy(config)}")


def cached_base_policy(cache: str, deterministic: bool) -> Path:
    """The folder, in a cache, of the base policy that ``hapo pretrain`` builds, for the commands that start from it."""
    assert GlobalHydra.instance().is_initialized()
    config = compose("pretrain")
    config.paths.cache, config.deterministic = cache, deterministic
    return base_policy(config)


def base_policy(config: DictConfig) -> Path:
    """The Hugging Face folder of this base policy; it is trained if it is not in the cache.

    The key in the folder's name covers what the weights depend on: :data:`RECIPE` with the code that it names, the
    version of the problems, and :data:`LIBRARIES`.  A recipe with code that has no file is trained every time.
    """
    OmegaConf.resolve(config)
    recipe = OmegaConf.masked_copy(config, list(RECIPE))
    parts = {"problems": arithmetic.VERSION, "recipe": OmegaConf.to_container(recipe)}
    key, unknown = cache_key(parts, LIBRARIES)
    folder = Path(config.paths.cache) / f"base-{key[:12]}"
    if unknown:
        folder = Path(tempfile.mkdtemp(prefix="hapo-")) / folder.name
        print(f"the base policy is not kept: {unknown} has no source file to hash")
    if folder.is_dir():
        if not (fault := damage(folder)):
            return folder
        print(f"warning: {folder} is damaged ({fault}) and is made again", file=sys.stderr)
    print(f"building the base policy (about a minute, once): {folder}", flush=True)
    with setting_up():
        data, module, trainer = build(config, "data", "module", "trainer")
        try_out(module)
    trainer.fit(module, datamodule=data)
    require_finite(module, trained=False)
    with appearing(folder, shared=True) as draft:
        module.policy.save_pretrained(draft)
        module.tokenizer.save_pretrained(draft)
        (draft / "recipe.yaml").write_text(OmegaConf.to_yaml(recipe))
        list_files(draft)
        if damage(folder):  # else another process was first, and its folder stays
            remove(folder)
    return folder
