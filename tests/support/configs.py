"""Composed configurations, and data and tokenizers to build them with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from hapo_lit.cli.bootstrap import config_folder

CONF = Path(config_folder())

SHIPPED = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))

ELSEWHERE = ["finetune", "qwen_math_numina", "qwen_math_numina_7b", "smollm_gsm"]
"""Presets with models of their own: see cli/test_plan.py and cli/test_smollm.py."""

PRESETS = [preset for preset in SHIPPED if preset not in ELSEWHERE]


def composed(verb, *overrides):
    """The configuration of an entry point, as its job gets it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(verb, overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        OmegaConf.set_struct(config, True)
    return config


def train(base, folder, *overrides):
    """The configuration of ``hapo train`` with another base policy and folder."""
    return composed("train", f"model.path={base}", f"paths.run={folder}", *overrides)


def targets(node, where="") -> Iterator[tuple[str, DictConfig]]:
    """Every node that names a class or function, with its place."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield where, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from targets(node[key], f"{where}.{key}")
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from targets(item, f"{where}[{index}]")


def wrong_names(config) -> list[str]:
    """A line for every target with parameters that it does not have."""
    wrong = []
    for where, node in targets(config):
        parameters = inspect.signature(get_object(node._target_)).parameters
        unknown = set(node) - {"_target_", "_partial_"} - set(parameters)
        if unknown and not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
            wrong.append(f"{where}: {node._target_} has no parameter {unknown}")
    return wrong


def rows_of(shape, count=60):
    """Rows as each data set has them: the same problems, and one that is a proof, has a figure or is invalid."""
    for number in range(2, count):
        question, answer = f"What is {number}-1 in the list?", str(number - 1)
        text = rf"We compute \boxed{{{answer}}}"
        common = {"problem": question, "solution": text, "source": "olympiads"}
        typed = {"question_type": "math-word-problem", "problem_type": "Algebra"}
        if shape == "numina_cot":
            yield common | {"messages": [{"role": "user", "content": question}]}
        elif shape == "numina":
            valid = {"problem_is_valid": "Yes", "solution_is_valid": "Yes" if number % 7 else "No", "synthetic": False}
            yield common | typed | valid | {"answer": answer if number % 5 else "proof"}
        elif shape == "openr1":
            lists = {"generations": [text, text + " twice", "wrong"], "is_reasoning_complete": [True, True, True]}
            verdicts = {
                "correctness_math_verify": [True, True, False],
                "correctness_llama": None,
                "finish_reasons": None,
            }
            yield common | typed | lists | verdicts | {"answer": answer, "uuid": str(number), "correctness_count": 2}
        else:
            yield {
                "data_source": "olympiads",
                "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": question}],
                "target": [{"role": "assistant", "content": text}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": answer},
                "extra_info": {"index": number, "split": "train"},
            }


def words(path):
    """A tokenizer that knows any word, in place of the base policy's, which knows digits."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(["<eos>", *sorted(alphabet)])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
