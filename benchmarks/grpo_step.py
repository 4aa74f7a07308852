"""A step of GRPO, ours and TRL's, by the slope between two lengths of whole runs: the same model, prompts and rewards.

The model is a random Qwen2 whose stop token cannot be sampled: the first number of every embedding is 1 and that of
the stop token -100, so that its logit is far below all others, which all move by the same.  So every response has the
full length.  No two rewards are equal, so that both sides train on all rows, and all are negative, as hapo_lit pays
nothing above 0 for a response that did not end.  Both sides run as a user would run them: ours is the
command with its logs of every step, and TRL logs every tenth, its default.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes_apart import HAPO, CaseFailed, Numbers, apart, whole

PROBLEMS, WORDS, RATE = 64, 12, 1e-6
"""Problems in the file, words of each, and the learning rate."""


@dataclass(frozen=True)
class Setting:
    """A model and a batch.  ``short`` and ``long`` are the lengths of the two runs, in steps."""

    layers: int
    hidden: int
    vocabulary: int
    prompts: int
    group: int
    tokens: int
    short: int
    long: int

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, h {self.hidden}, V {self.vocabulary:,}, {self.prompts} prompts x {self.group} "
            f"responses x {self.tokens} tokens"
        )


SETTINGS = {
    "A": Setting(2, 64, 512, prompts=4, group=4, tokens=64, short=5, long=85),
    "B": Setting(2, 64, 151_665, prompts=4, group=4, tokens=64, short=1, long=4),
    "C": Setting(4, 256, 4_096, prompts=2, group=8, tokens=128, short=1, long=11),
}


def ours(name: str, quick: bool) -> Numbers:
    """A step of ``hapo train``: CPU and wall seconds, and the peak memory of the longer run."""
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), setting)

        def run(steps: int) -> Numbers:
            place = Path(folder) / f"run-{steps}"
            used = whole([*HAPO, *overrides(folder, setting, steps), f"hydra.run.dir={place}"])
            check_run(place, setting, steps)
            return used

        return slope(run, setting, quick)


def trl(name: str, quick: bool) -> Numbers:
    """The same of TRL's GRPOTrainer."""
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), setting)
        return slope(lambda steps: apart(trl_run, name, folder, steps), setting, quick)


def slope(run: Any, setting: Setting, quick: bool) -> Numbers:
    """What a step costs, from the difference between two runs."""
    few, many = (1, 3) if quick else (setting.short, setting.long)
    short, long = run(few), run(many)
    found = {quantity: (long[quantity] - short[quantity]) / (many - few) for quantity in ("cpu", "wall")}
    if found["cpu"] <= 0 and not quick:
        raise CaseFailed(f"{many} steps took less CPU time than {few}: measure while the machine is quiet")
    return {**found, "peak": long["peak"]}


def overrides(folder: str, setting: Setting, steps: int) -> list[str]:
    """``hapo train`` as a user would start it with a verifier of their own, evaluating and saving at the end alone."""
    data = ["data=files", f"data.path={folder}/rows.jsonl", f"data.heldout_path={folder}/heldout.jsonl"]
    limits = [f"max_prompt_tokens={WORDS}", f"max_response_tokens={setting.tokens}"]
    batch = [f"prompts_per_step={setting.prompts}", f"group_size={setting.group}", f"steps={steps}"]
    rate = ["learning_rate=constant", f"learning_rate.value={RATE}"]
    verifier = ["verifier=exact", "verifier._target_=benchmarks.grpo_step.Distinct", "teacher_check=trusted"]
    rare = [f"eval_every={steps}", f"save_every={steps}", f"paths.cache={folder}/cache"]
    model = ["experiment=grpo", "model=hf", f"model.path={folder}", "accelerator=cpu"]
    return ["train", *model, *data, *limits, *batch, *rate, *verifier, *rare]


def check_run(place: Path, setting: Setting, steps: int) -> None:
    """Every response had its full length, and every row was trained on."""
    from hapo_lit.analysis import read_metrics

    metrics = read_metrics(place)
    rows = setting.prompts * setting.group
    assert (metrics["rollout/tokens"].dropna() == rows * setting.tokens).all(), metrics["rollout/tokens"]
    assert (metrics["update/row_share"].dropna() == 1).all(), metrics["update/row_share"]
    assert len(metrics["update/row_share"].dropna()) == steps


def trl_run(name: str, folder: str, steps: int) -> Numbers:
    """A run of GRPOTrainer on that model and those rows, in this process."""
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    setting = SETTINGS[name]
    rows = [json.loads(line) for line in Path(folder, "rows.jsonl").read_text().splitlines()]
    config = GRPOConfig(
        output_dir=f"{folder}/trl-{steps}",
        per_device_train_batch_size=setting.prompts * setting.group,
        num_generations=setting.group,
        max_completion_length=setting.tokens,
        max_steps=steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # its default saves memory for time
    )
    trainer = GRPOTrainer(
        folder,
        reward_funcs=trl_reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": row["problem"], "answer": row["answer"]} for row in rows]),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
    )
    trainer.train()
    lengths = [entry["completions/min_length"] for entry in trainer.state.log_history if "loss" in entry]
    assert set(lengths) <= {float(setting.tokens)}, lengths
    assert trainer.state.global_step == steps
    return {}


# -- rewards, which both sides call ------------------------------------------------------------------------------------


def rewards(responses: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Numbers between -2 and -1 that no two texts share, so that no response has the mean reward of its group."""
    texts = (response + answer for response, answer in zip(responses, answers, strict=True))
    return [zlib.crc32(text.encode()) / 2**32 - 2 for text in texts]


class Distinct:
    """A verifier of one's own: :func:`rewards`."""

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> Any:
        import torch

        return torch.tensor(rewards(responses, answers))

    def metrics(self) -> dict[str, float]:
        return {}


def trl_reward(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """:func:`rewards` as TRL calls it."""
    return rewards(completions, answer)


# -- the model and the rows --------------------------------------------------------------------------------------------


def write_model(folder: Path, setting: Setting) -> None:
    """A random policy with a tokenizer of its words, ``rows.jsonl`` and ``heldout.jsonl``."""
    import random

    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    from benchmarks.random_qwen2 import random_qwen2

    logging.disable_progress_bar()
    words = [str(number) for number in range(setting.vocabulary - 3)]
    ids = {word: index for index, word in enumerate(["<pad>", "<unk>", *words, "</s>"])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=512
    ).save_pretrained(folder)
    torch.manual_seed(0)
    special = {"bos_token_id": None, "eos_token_id": ids["</s>"], "pad_token_id": 0}
    model = random_qwen2(setting.vocabulary, setting.hidden, setting.layers, positions=512, **special)
    with torch.no_grad():
        first = model.get_input_embeddings().weight[:, 0]
        first.fill_(1)
        first[ids["</s>"]] = -100
    model.save_pretrained(folder)
    draw = random.Random(0)
    for file, count in (("rows", PROBLEMS), ("heldout", 1)):
        problems = [draw.sample(words, WORDS) for _ in range(count)]
        rows = [{"problem": " ".join(problem), "solution": problem[0], "answer": problem[0]} for problem in problems]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
