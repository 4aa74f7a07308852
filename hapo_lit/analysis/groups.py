"""Groups as a table, a row per response, and how much each response counts in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hapo_lit.analysis.figures import BLUE, ORANGE, panel


def group_table(group: Any, texts: Sequence[str], advantages: Any = None, token_weights: Any = None) -> pd.DataFrame:
    """A row per response of a :class:`hapo_lit.types.RolloutGroup`.

    Args:
        group: the group.
        texts: its responses as text, those of the first prompt first.
        advantages: ``[P, G]`` tensor, for the column ``advantage``.
        token_weights: ``[P, G, T]`` tensor, for ``token weight`` (of one token of the response) and
            ``contribution``: advantage times the weight of all its tokens, its part of the loss.

    Returns:
        indexed by ``problem`` and ``row``: ``response``, ``by``, ``reward``, ``tokens``, and the columns above for the
        arguments that are given.
    """
    prompts, size = group.rewards.shape
    table = pd.DataFrame(
        {
            "response": list(texts),
            "by": np.where(group.is_teacher.flatten().numpy(), "teacher", "policy"),
            "reward": [int(reward) if reward.is_integer() else reward for reward in group.rewards.flatten().tolist()],
            "tokens": group.mask.sum(2).flatten().tolist(),
        },
        index=pd.MultiIndex.from_product([range(1, prompts + 1), range(1, size + 1)], names=["problem", "row"]),
    )
    if advantages is not None:
        table["advantage"] = advantages.flatten().tolist()
    if token_weights is not None:
        table["token weight"] = token_weights.amax(2).flatten().tolist()
        table["contribution"] = (advantages * token_weights.sum(2)).flatten().tolist()
    return table


def contribution_figure(table: pd.DataFrame) -> Figure:
    """How much each response of :func:`group_table` counts; bars to the right make it likelier, to the left less so."""
    problems = table.index.get_level_values("problem")
    places = np.arange(len(table)) + 0.8 * (problems - 1)
    with panel(height=0.5 + 0.17 * len(table)) as (figure, axes):
        for writer, colour in (("policy", BLUE), ("teacher", ORANGE)):
            own = (table["by"] == writer).to_numpy()
            axes.barh(places[own], table["contribution"][own], color=colour, height=0.7, label=writer)
        names = [f"problem {problem}, row {row}" for problem, row in table.index]
        axes.set_yticks(places, names)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set(xlabel="advantage × weight of the response in the loss", ylim=(places[-1] + 0.6, -0.6))
        axes.grid(False, axis="y")
        axes.legend(loc="best")
    return figure
