"""Messages name the key as a user sets it, and what helps."""

from __future__ import annotations

import errno
import os

import pytest
from hydra.errors import HydraException

from hapo_lit.cli.lasting_output import LastingStream
from hapo_lit.cli.machine import shortage
from hapo_lit.cli.messages import first_cause, naming
from hapo_lit.cli.own_key import at, own_key

SETTINGS = {
    "loss": {"clip": {"low": 0.2}},
    "max_response_tokens": 16,
    "weighting": {"max_length": "${max_response_tokens}"},
    "phases": {"whole": {"loss": "${loss}", "weighting": "${weighting}"}},
    "module": {"phases": "${phases}"},
    "data": {"levels": [{"digits": 1}]},
}


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("module.phases.whole.loss.clip.low", "loss.clip.low"),
        ("module.phases.whole.weighting.max_length", "max_response_tokens"),
        ("data.levels0.digits", "data.levels.0.digits"),
        ("gone.away", "gone.away"),
    ],
)
def test_a_key_is_the_one_that_interpolations_point_to(place, key):
    assert own_key(SETTINGS, place) == key
    assert at(SETTINGS, "module.phases.whole.loss") == {"clip": {"low": 0.2}}


@pytest.mark.parametrize(
    ("line", "settings", "added"),
    [
        ("nothing reads the key 'los'", ["steps=4", "++los.ratio=1"], "++los.ratio=1"),
        ("loss.clip.low must be a number", ["loss.clip.low=x"], None),
        ("steps must be a whole number", ["seed=1", "steps=x"], None),
        ("a group was given a int", ["seed=1", "teacher=5"], "teacher=5"),
        (
            "learning_rate: a rate at each of the steps",
            ["steps=4", "learning_rate.start=-1"],
            "steps=4 learning_rate.st",
        ),
        ("something else", ["seed=1", "threads=2"], "seed=1 threads=2"),
        ("something else", ["experiment=smoke"], None),
        ("a group was given a NoneType", ["steps=4", "experiment=null"], "experiment=null"),
        ("/some/folder is no checkpoint", ["steps=4", "resume=/some/folder"], "resume=/some/folder"),
    ],
)
def test_a_message_that_names_no_key_gets_the_settings_that_it_may_be_about(line, settings, added):
    assert naming(line, settings).startswith(f"{line} (set here: {added}" if added else line)
    assert ("set here" in naming(line, settings)) == (added is not None)


def test_what_a_part_has_wrapped_itself_stays_wrapped():
    inner, wrapper, outer = OSError("bad magic"), ValueError("b.parquet is damaged"), HydraException("in data")
    wrapper.__cause__, outer.__cause__ = inner, wrapper
    assert first_cause(outer) is wrapper


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("unable to write to file </torch_12_3>: No space left on device (28)"), "/dev/shm"),
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Bus error."), "data.workers=0"),
        (OSError(errno.ENOENT, "No such file"), None),
        (RuntimeError("a bug"), None),
    ],
)
def test_what_a_machine_lacks_is_said_with_what_helps(error, says):
    found = shortage(error)
    assert found is None if says is None else says in found


def test_a_run_outlives_what_reads_its_output():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        stream = LastingStream(pipe)
        stream.write("heard\n")
        stream.flush()
        os.close(reader)
        for _ in range(3):
            stream.write("not heard\n")
            stream.flush()  # of the pipe itself this is an error
