"""What TensorBoard shows besides curves: read back from the files it is given."""

from __future__ import annotations

import html
import json

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from support.training import STEPS, data, fit, hapo, module, phase
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader as EventFileLoader

from hapo_lit.gates import AlwaysGate
from hapo_lit.training.callbacks.completions import Completions, completions_table
from hapo_lit.training.callbacks.posterior import Posterior
from hapo_lit.training.tensorboard import StepwiseTensorBoardLogger


def response(text, by, reward, advantage):
    return {"text": text, "by": by, "reward": reward, "advantage": advantage, "finished": True}


RECORD = {
    "step": 1,
    "prompt": "Compute 7-2.\n",
    "answer": "5",
    "gate_open": True,
    "responses": [
        response("seven | two", "policy", 0.0, -0.5),
        response("*five*", "policy", 1.0, 1.0),
        response(r"7-2\n\boxed{5}".replace(r"\n", "\n"), "teacher", 1.0, 1.0),
        response("<b>", "policy", 0.0, -1.5),
    ],
}


def cells(line):
    return line.strip("|").split("|")


def test_a_table_has_best_worst_and_teacher_and_what_all_were_worth():
    heads, _, line = completions_table([RECORD]).splitlines()
    found = dict(zip(cells(heads), cells(line), strict=True))
    assert found["prompt"] == "Compute 7&#45;2&#46;"
    assert found["best"] == "&#42;five&#42;"
    assert found["worst"] == "&#60;b&#62;"  # of equal verdicts the one with the lowest advantage
    assert found["teacher"] == "7&#45;2<br>&#92;boxed&#123;5&#125;"
    assert found["verdicts"] == "0 1 T1 0"
    assert found["advantages"] == "-0.50 +1.00 +1.00 -1.50"


def test_a_table_survives_bars_long_texts_and_groups_of_teachers_alone():
    long = {**RECORD, "responses": [response("a|b" * 1000, "policy", 0.0, 0.0)]}
    taught = {**RECORD, "responses": [response("5", "teacher", 1.0, 1.0)]}
    lines = completions_table([long, taught]).splitlines()
    assert [len(cells(line)) for line in lines] == [7, 7, 7, 7]
    assert len(lines[2]) < 5000
    assert cells(lines[3])[2:5] == ["", "", "5"]


def test_a_table_is_a_table_to_tensorboard():
    from tensorboard.plugin_util import markdown_to_safe_html

    page = markdown_to_safe_html(completions_table([RECORD]))
    assert "<b>" not in page
    page = html.unescape(page)
    assert page.count("<td") == 7
    assert "seven" not in page  # neither best nor worst
    assert r"\boxed{5}" in page


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_shows_posteriors_and_completions_where_they_are_due(make_policy, tokenizer, tmp_path, every):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    built = module(make_policy(), tokenizer, phase(hapo()))
    show(built, tokenizer, logger, tmp_path, every)
    events = EventAccumulator(str(tmp_path), {"histograms": 0, "tensors": 0})
    events.Reload()
    steps = list(range(1, STEPS + 1, every))
    histograms = events.Histograms("gate/posterior")
    assert [event.step for event in histograms] == steps
    assert {event.histogram_value.num for event in histograms} == {4.0}  # one for each prompt
    last = built.experience.decision.confidence.double()
    if every == 1:
        assert histograms[-1].histogram_value.sum == pytest.approx(float(last.sum()))
    tables = events.Tensors("completions/text_summary")
    assert [event.step for event in tables] == steps
    records = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    mine = [record for record in records if record["step"] == steps[-1]]
    assert tables[-1].tensor_proto.string_val[0].decode() == completions_table(mine)


def show(built, tokenizer, logger, folder, every):
    """A run with these two callbacks."""

    class Both(Callback):
        parts = (Posterior(every), Completions(str(folder / "completions.jsonl"), every))

        def on_train_batch_end(self, trainer, *args):
            trainer.loggers = [logger]
            for part in self.parts:
                part.on_train_batch_end(trainer, *args)
            trainer.loggers = []

    fit(built, data(tokenizer), watch=Both())
    logger.experiment.flush()


def test_a_gate_without_an_estimate_has_no_posterior(make_policy, tokenizer, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    show(module(make_policy(), tokenizer, phase(hapo(AlwaysGate()))), tokenizer, logger, tmp_path, 1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["histograms"] == []


def test_the_numbers_of_a_step_are_one_event_with_lightnings_tags_and_values(tmp_path):
    numbers = [{"a/b": 0.1, "c": 3, "d": float("nan")}, {"a/b": torch.tensor(0.5), "c": 4.0}]
    events, kept = [], []
    for kind in (TensorBoardLogger, StepwiseTensorBoardLogger):
        logger = kind(tmp_path / kind.__name__, name="", version="")
        for step, metrics in enumerate(numbers, 1):
            logger.log_metrics(metrics, step)
            logger.finalize("success")  # as Lightning does after each of its loops: the next number opens a new file
        files = sorted((tmp_path / kind.__name__).glob("events*"))
        events.append([len(event.summary.value) for file in files for event in EventFileLoader(str(file)).Load()])
        read = EventAccumulator(str(tmp_path / kind.__name__))
        read.Reload()
        kept.append({tag: repr([(it.step, it.value) for it in read.Scalars(tag)]) for tag in read.Tags()["scalars"]})
    assert [sum(count > 0 for count in counts) for counts in events] == [5, 3]  # a tensor goes Lightning's way
    assert max(events[1]) == 3
    assert kept[0] == kept[1]


def test_every_must_be_a_step():
    with pytest.raises(ValueError, match="at least 1"):
        Posterior(0)
