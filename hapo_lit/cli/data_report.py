"""What a run prints of its data before it trains on them."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from hapo_lit.data.collate import READS_OTHERWISE, TEACHER_READS_OTHERWISE, TEACHER_STOPS_EARLY
from hapo_lit.data.teachers import REFERENCES_UNREAD, SAME_LETTERS
from hapo_lit.errors import one_line, visible
from hapo_lit.training.interfaces import RunData

DATA_LINE = (
    "data: {size}, {heldout_problems} held out, {prompt_too_long} prompts too long; teachers{of}: "
    "{teacher_usable} usable, {teacher_rejected} rejected, {teacher_too_long} too long, {teacher_absent} absent"
)
RARE = {
    TEACHER_STOPS_EARLY: "teachers hold a stop token before their end and are not used",
    TEACHER_READS_OTHERWISE: READS_OTHERWISE,
    REFERENCES_UNREAD: f"reference answers cannot be read: {SAME_LETTERS}; `hapo data inspect` shows some",
}
"""What is said of teachers and answers only where there are any."""


def print_data_report(data: RunData, facts: Mapping[str, float]) -> None:
    """Print sizes, what became of the teachers, and one example; ``facts`` are those of ``data.describe()``."""
    judged = sum(facts[f"teacher_{outcome}"] for outcome in ("usable", "rejected", "too_long", "absent"))
    judged += facts[TEACHER_STOPS_EARLY]
    size = f"{facts['train_problems']:,.0f} problems" if facts["train_problems"] else "a stream of problems"
    part = "" if judged == facts["train_problems"] else f" of {judged} looked at"
    print(DATA_LINE.format(size=size, of=part, **facts))
    for name, fault in RARE.items():
        if facts[name]:
            print(f"warning: {facts[name]:.0f} {fault}", file=sys.stderr)
    if dropped := data.dropped():
        print(f"rows: {dropped}")
    for note in data.notes():
        print(note, file=sys.stderr if note.startswith("warning: ") else sys.stdout)
    if not facts["teacher_usable"]:
        long = facts["teacher_too_long"]
        why = f" ({long:.0f} are longer than max_response_tokens)" if long else ""
        print(f"warning: no teacher can be used{why}, so nothing will ever be injected or imitated", file=sys.stderr)
    prompt, teacher = data.sample()
    print(f"a prompt: {visible(prompt)}\nits teacher: {one_line(teacher)}")
