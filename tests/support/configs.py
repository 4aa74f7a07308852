"""Composed configurations, and data and tokenizers to build them with."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hapo_lit.cli.bootstrap import config_folder

CONF = Path(config_folder())

SHIPPED = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))

ELSEWHERE = ["qwen_math_numina", "qwen_math_numina_7b", "smollm_gsm"]  # see test_plan.py, test_smollm.py

PRESETS = [preset for preset in SHIPPED if preset not in ELSEWHERE]


def composed(door, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(door, overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        OmegaConf.set_struct(config, True)
    return config


def train(base, folder, *overrides):
    return composed("train", f"model.path={base}", f"paths.run={folder}", *overrides)


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
    tokenizer = Tokenizer(models.BPE({each: index for index, each in enumerate(["<eos>", *sorted(alphabet)])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
