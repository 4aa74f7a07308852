"""The verifiers as training sees them: rewards, counters, alarms."""

import pytest
import torch
from omegaconf import OmegaConf

from hapo_lit.cli.invocation import run_job
from hapo_lit.errors import VerifierError
from hapo_lit.protocols import Verifier
from hapo_lit.verify import verifier as verifier_module
from hapo_lit.verify.checking import REASONS
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.verify.verifier import MathVerifier


@pytest.fixture
def verifier(checker):
    """With workers that are there already."""
    made = MathVerifier()
    made.checker = checker
    return made


def test_math_verifier_rewards_and_counts(verifier):
    assert isinstance(verifier, Verifier)
    responses = [
        r"\boxed{\frac12 x}",
        "x, or was it x/2 after all",
        r"\boxed{5}",
        r"\boxed{" + "1+" * 200 + "}",
        r"\boxed{@x}",
    ]
    rewards = verifier(responses, [r"\frac{x}{2}", "5", "5", "5", "5"])
    assert rewards.tolist() == [1, 0, 1, 0, 0]
    assert rewards.dtype == torch.float32
    metrics = verifier.metrics()
    shares = {name: metrics[f"verify/{name}"] for name in REASONS}
    assert shares == pytest.approx(
        dict.fromkeys(REASONS, 0.0) | dict.fromkeys(("sympy", "no_answer", "string", "too_long", "unparsable"), 0.2)
    )
    assert metrics["verify/from_box"] == pytest.approx(0.8)
    assert metrics["verify/kills"] == 0
    assert metrics["verify/p99_ms"] > 0
    assert metrics["time/verify"] > 0


def test_a_step_of_which_no_answer_can_be_checked_stops_the_run(verifier):
    responses = [r"\boxed{1}"] * 8
    assert verifier(responses[:7], [""] * 7).sum() == 0  # too few to say
    assert verifier(responses, [""] * 7 + ["1"]).sum() == 1
    with pytest.raises(VerifierError, match=r"could check none of 8 answers \(8 bad_gold\).*reference '', answer '1'"):
        verifier(responses, [""] * 8)
    assert verifier([r"\boxed{@@}"] * 8, ["x+1"] * 8).sum() == 0  # the policy's fault, and no reason to stop


def test_too_many_missed_limits_stop_the_run(monkeypatch):
    monkeypatch.setattr(verifier_module, "WINDOW", 100)
    verifier = MathVerifier(cpu_seconds=1e-6)
    slow = [rf"\boxed{{\sqrt{{{n}}}}}" for n in range(3)]
    for _ in range(2):  # 3 of 100: seen when the window is full
        verifier([r"\boxed{1}"] * 48, ["1"] * 48)
    with pytest.raises(
        VerifierError, match=r"3 of the last 100 answers met a limit of the verifier \(3.0%, at most 2%"
    ):
        verifier([*slow, r"\boxed{1}"], [r"x+1"] * 3 + ["1"])
    for _ in range(3):
        assert verifier([r"\boxed{1}"] * 48, ["1"] * 48).sum() == 48  # long past
    assert verifier([slow[0], *[r"\boxed{1}"] * 47], ["x+2", *["1"] * 47]).sum() == 47  # 1 of 100 or more
    assert verifier.metrics()["verify/timeout"] == pytest.approx(1 / 48)
    assert verifier.metrics()["verify/kills"] == 1
    verifier.checker.close()


def test_exact_verifier_wants_one_box_at_the_end_and_no_algebra():
    verifier = ExactVerifier()
    assert isinstance(verifier, Verifier)
    responses = [r"\boxed{5254}", r"\boxed{7547-2293}", r"5254", r"\boxed{5254};", r"\boxed{05254}", r"\boxed{5253}"]
    assert verifier(responses, ["5254"] * 6).tolist() == [1, 0, 0, 0, 1, 0]
    assert verifier.metrics()["verify/no_answer"] == pytest.approx(2 / 6)


def test_a_run_that_is_stopped_says_why_in_one_line(capsys):
    def main(config):
        raise VerifierError("31 of the last 1,000 answers met a limit of the verifier")

    with pytest.raises(SystemExit):
        run_job(main, OmegaConf.create())
    assert capsys.readouterr().err == "hapo: error: 31 of the last 1,000 answers met a limit of the verifier\n"
