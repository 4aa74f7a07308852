"""Some groups of every few steps, to be read: ``completions.jsonl``, and a table in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hapo_lit.errors import cut
from hapo_lit.numerics.ranges import check_count
from hapo_lit.training.decoding import decode_prompts
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer
from hapo_lit.training.metric_names import COMPLETIONS
from hapo_lit.training.tensorboard import show_text
from hapo_lit.types import Experience, PromptBatch

LONGEST = 600
"""Characters of a text in the table."""


class Completions(RunCallback):
    """Writes some groups as JSON lines: prompt, responses, who wrote them, verdicts, advantages; and shows them as a
    table in TensorBoard.

    Args:
        path: the file; lines are appended.
        every: steps between two records.
        prompts: groups per record.
    """

    def __init__(self, path: str, every: int, prompts: int = 4) -> None:
        self.path, self.every = Path(path), check_count("every", every)
        self.prompts = check_count("prompts", prompts)

    def on_train_batch_end(
        self, trainer: RunTrainer, pl_module: RunModule, outputs: object, batch: PromptBatch, batch_idx: int
    ) -> None:
        experience = pl_module.experience
        if not trainer.is_global_zero or experience is None or (pl_module.step - 1) % self.every:
            return
        prompts = decode_prompts(experience.group, pl_module.tokenizer)[: self.prompts]
        responses = pl_module.decode(experience.group)
        records = [
            {
                "step": pl_module.step,
                "prompt": prompt,
                "answer": batch.answers[index],
                "gate_open": bool(experience.decision.open[index]),
                "responses": _rows(experience, responses, index),
            }
            for index, prompt in enumerate(prompts)
        ]
        with self.path.open("a") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        show_text(trainer, COMPLETIONS, completions_table(records), pl_module.step)


def _rows(experience: Experience, responses: Sequence[str], index: int) -> list[dict[str, Any]]:
    """The rows of the ``index``-th group of an experience, whose responses are all decoded."""
    group = experience.group
    size = group.tokens.shape[1]
    return [
        {
            "text": responses[index * size + row],
            "by": "teacher" if group.is_teacher[index, row] else "policy",
            "reward": float(group.rewards[index, row]),
            "success": bool(group.successes[index, row]),
            "advantage": round(float(experience.advantages[index, row]), 6),
            "finished": bool(group.finished[index, row]),
        }
        for row in range(size)
        if group.present[index, row]
    ]


def completions_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as a Markdown table, a line for each group.

    It has the prompt, the policy's best and worst response, the teacher's, and the verdicts and advantages of all rows
    in the order of the group; ``T`` marks the teacher's.
    """
    heads = ("prompt", "answer", "best", "worst", "teacher", "verdicts", "advantages")
    lines = ["|".join(heads), "|".join("---" for _ in heads)]
    for record in records:
        rows = record["responses"]
        own = sorted((row for row in rows if row["by"] == "policy"), key=lambda row: (row["reward"], row["advantage"]))
        taught = [row for row in rows if row["by"] == "teacher"]
        cells = [
            _cell(record["prompt"]),
            _cell(record["answer"]),
            _cell(own[-1]["text"]) if own else "",
            _cell(own[0]["text"]) if own else "",
            _cell(taught[0]["text"]) if taught else "",
            " ".join(f"{'T' if row['by'] == 'teacher' else ''}{row['reward']:g}" for row in rows),
            " ".join(f"{row['advantage']:+.2f}" for row in rows),
        ]
        lines.append("|".join(cells))
    return "\n".join(f"|{line}|" for line in lines)


def _cell(words: str) -> str:
    """A text that Markdown leaves as it is, on one line of its table."""
    escaped = "".join(
        f"&#{ord(character)};" if character in r"\`*_{}[]()#+-.!|~$:<>&" else character
        for character in cut(words.strip(), LONGEST)
    )
    return escaped.replace("\n", "<br>")
