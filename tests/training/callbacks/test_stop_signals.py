"""What asks a run to stop, and what ends it at once."""

from __future__ import annotations

import os
import pty
import signal
import time

import pytest

from hapo_lit.training.callbacks.stop_signals import CAUGHT, Stopped, StopSignals

TERM, INT, HUP, USR1 = CAUGHT


@pytest.fixture(autouse=True)
def not_ignored():
    """As in a process that was started by hand: under nohup SIGHUP would be ignored, under `&` in a script SIGINT."""
    defaults = dict.fromkeys(CAUGHT, signal.SIG_DFL) | {INT: signal.default_int_handler}
    before = {signum: signal.signal(signum, handler) for signum, handler in defaults.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def signals():
    caught = StopSignals()
    caught.catch()
    yield caught
    caught.restore()


@pytest.mark.parametrize("signum", CAUGHT)
def test_each_is_remembered_and_says_how_the_process_ends(signals, signum):
    os.kill(os.getpid(), signum)
    assert signals.received == signum
    assert Stopped(signals.received, None).status == (130 if signum == INT else 0)


@pytest.mark.parametrize(
    ("sent", "ended_by"),
    [((HUP, HUP, USR1), 0), ((USR1, TERM), 0), ((HUP, INT, HUP), 0), ((TERM, TERM), TERM), ((USR1, TERM, INT), INT)],
)
def test_only_a_second_sigterm_or_sigint_ends_the_process_at_once(sent, ended_by):
    child = os.fork()
    if not child:
        caught = StopSignals()
        caught.catch()
        for signum in sent:
            os.kill(os.getpid(), signum)
        os._exit(0 if caught.received == sent[0] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -ended_by


def test_what_the_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        caught = StopSignals()
        caught.catch()
        assert signal.getsignal(HUP) is signal.SIG_IGN
        caught.restore()
        assert signal.getsignal(HUP) is signal.SIG_IGN
    finally:
        signal.signal(HUP, before)


def test_a_run_whose_terminal_is_closed_gets_to_save(tmp_path):
    """What it prints then is no error."""
    child, terminal = pty.fork()
    if not child:
        caught = StopSignals()
        caught.catch()
        os.write(1, b"ready")
        while not caught.received:
            time.sleep(0.01)
        os.write(1, b"saved")
        os.write(2, b"saved")
        (tmp_path / "saved").touch()
        os._exit(0)
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "saved").exists()
