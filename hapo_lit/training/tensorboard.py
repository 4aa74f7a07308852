"""What TensorBoard shows besides curves: histograms and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from hapo_lit.training.metric_names import COMPLETIONS, POSTERIOR

LONGEST = 600
"""Characters of a text in a table."""


def histogram(trainer: Any, name: str, values: Tensor, step: int) -> None:
    """Show the distribution of some values."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values, step)


def text(trainer: Any, name: str, markdown: str, step: int) -> None:
    """Show a text."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, markdown, step)


class Posterior(Callback):
    """Shows how the posterior means of the step's prompts are spread, over all ranks; nothing if the gate has none.

    Args:
        every: steps between two histograms.
    """

    def __init__(self, every: int) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.every = every

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        experience = pl_module.experience
        if (pl_module.step - 1) % self.every or experience is None or experience.rollouts is None:
            return
        if not pl_module.phases.at(pl_module.step - 1).algorithm.estimates:
            return
        means = pl_module.ranks.gather(experience.decision.confidence)
        if trainer.is_global_zero:
            histogram(trainer, POSTERIOR, means, pl_module.step)


def show_completions(trainer: Any, records: Sequence[Mapping[str, Any]], step: int) -> None:
    """Show records of :class:`hapo_lit.training.callbacks.Completions` as a table."""
    text(trainer, COMPLETIONS, completions_table(records), step)


def completions_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: for each group its prompt, the policy's best and worst response, the teacher's, and what all were
    worth, in the order of the group's rows; ``T`` marks the teacher's."""
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
    words = words.strip()
    if len(words) > LONGEST:
        words = f"{words[: LONGEST // 2]} ... {words[-LONGEST // 2 :]}"
    escaped = "".join(f"&#{ord(each)};" if each in r"\`*_{}[]()#+-.!|~$:<>&" else each for each in words)
    return escaped.replace("\n", "<br>")
