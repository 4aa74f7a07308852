"""Small policies twice: with contents, and as shapes alone on the meta device."""

from __future__ import annotations

import torch
from hydra import initialize_config_dir
from support.builders import TINY
from support.configs import composed
from support.training import hapo, module, phase
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.plan import without_contents
from hapo_lit.cli.setup import build
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.policy.loading import meta_model
from hapo_lit.training.module import HapoModule

SHAPE = {**TINY, "model_type": "qwen2", "vocab_size": 97, "tie_word_embeddings": True}


def real_policy(checkpointing: bool = False, **sizes: object) -> PreTrainedModel:
    """A random policy of :data:`SHAPE`."""
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**SHAPE, **sizes}), dtype=torch.float32).train()
    if checkpointing:
        made.gradient_checkpointing_enable({"use_reentrant": False})
        made.disable_input_require_grads()
    return made


def shapes_of_policy(checkpointing: bool = False, **sizes: object) -> PreTrainedModel:
    """The same without contents."""
    return meta_model("none", {**SHAPE, **sizes}, gradient_checkpointing=checkpointing)


def module_of(policy: PreTrainedModel, tokenizer=None, kl: float = 0.0, optimizer=None) -> HapoModule:
    """A module that trains a policy by HAPO; ``optimizer`` makes another than AdamW."""
    made = module(policy, tokenizer, phase(hapo(), kl=kl))
    made.make_optimizer = optimizer or made.make_optimizer
    return made


def planned(*overrides: str, command: str = "plan") -> tuple[HapoModule, MathDataModule]:
    """Module and data of a configuration, its policy without contents."""
    config = composed(command, "paths.run=run", *overrides)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        without_contents(config)
    return build(config, "module", "data")
