"""What a run logs, by name.  README has the same list; a test compares runs, this file and README."""

from __future__ import annotations

STEPWISE = {
    "reward/mean": "mean reward of the sampled responses, before injection",
    "reward/<label>": "the same for problems of one difficulty, as the data label them (`4-digit`, a topic, a source)",
    "success/rate": "share of the sampled responses that the verifier calls right, before injection",
    "rewards/<name>": "mean of one of several rewards, before its weight, such as `rewards/format`",
    "gate/open_rate": "share of groups whose gate was open",
    "gate/threshold": "γ now",
    "gate/posterior_mean": "mean of the posterior means of the step's prompts",
    "gate/posterior_spread": "their standard deviation",
    "gate/prompts": "prompts that the gate remembers",
    "gate/probability": "P(open) of a gate that follows a schedule",
    "teacher/use": "share of groups that hold a teacher row",
    "teacher/rows": "teacher rows consumed in the step",
    "teacher/row_share": "teacher rows among all rows",
    "teacher/token_share": "share of the loss's token weight that lies on teacher tokens",
    "teacher/gradient_share": "Σ |∂loss/∂log π| over teacher tokens, of that over all tokens",
    "teacher/refused": "open groups without a teacher that the verifier accepts and that fits",
    "teacher/beside_success": "share of groups with a teacher row and a success of the policy's own",
    "signal/all_wrong": "share of groups without a success, before injection",
    "signal/all_right": "share of groups without a failure, before injection",
    "signal/flat_before": "share of groups without signal, before injection",
    "signal/flat": "the same after injection",
    "response/length": "mean tokens of the sampled responses",
    "response/truncated": "share of them that met the length limit",
    "loss/total": "the loss",
    "loss/entropy": "entropy of the policy at tokens that count, in nats",
    "loss/kl": "estimate of KL(π ‖ π_ref) on the policy's tokens",
    "loss/kl_bounded": "share of these with π_ref/π above e^10, where `k3` is held and has no gradient",
    "loss/clipped_share": "share of the policy's tokens where the clip acted",
    "loss/clipped_low": "of these, at a ratio below 1",
    "loss/clipped_high": "of these, at a ratio above 1",
    "loss/ratio_mean": "mean of π/π_old on the policy's tokens; 1 in a batch's first update",
    "loss/ratio_above_2": "share of the policy's tokens with a ratio above 2",
    "loss/ratio_bounded": "share of the policy's tokens whose log-ratio is cut at ±20, and which have no gradient",
    "loss/teacher_ratio_mean": "mean of π/π_old on teacher tokens",
    "loss/teacher_probability": "mean of π on teacher tokens",
    "loss/correction": "mean factor that corrects for the engine",
    "loss/engine_gap": "mean |log π_old − log π_engine|",
    "update/gradient_norm": "norm of the gradient, before it is cut",
    "update/learning_rate": "learning rate",
    "update/row_share": "share of the rows that had to be run",
    "update/skipped": "updates left out because loss or gradient was not finite",
    "verify/<reason>": "share of responses with this reason for their verdict, such as `no_answer`",
    "verify/from_<route>": "share of responses whose answer was found this way, such as `from_box`",
    "verify/p99_ms": "milliseconds that the slowest hundredth of verdicts took at least",
    "verify/kills": "workers of the verifier that were replaced",
    "rollout/tokens": "tokens sampled",
    "rollout/tokens_per_second": "tokens sampled in a second of rollout, on all processes together",
    "time/step": "seconds of the step, without waiting for data",
    "time/data": "seconds that the step waited for its data",
    "time/between": "seconds since the step before, but for data, evaluation and checkpoint: callbacks, loggers, loop",
    "time/sync": "seconds until the engine had the weights",
    "time/rollout": "seconds of sampling",
    "time/engine": "of these, seconds of waiting for an engine in another process",
    "time/verify": "seconds of verification",
    "time/score": "seconds of log π_old and log π_ref",
    "time/update": "seconds of gradients and update",
}
"""Logged at every step; those of :data:`CONDITIONAL` only then.  A supervised step has no rollouts to speak of."""

CONDITIONAL = {
    "reward/<label>": "if the step has such problems",
    "rewards/<name>": "`verifier=weighted`",
    "gate/threshold": "`gate=beta` and its relatives",
    "gate/posterior_mean": "`gate=beta` and its relatives",
    "gate/posterior_spread": "`gate=beta` and its relatives",
    "gate/prompts": "`gate=beta` and its relatives",
    "gate/probability": "`gate=scheduled`",
    "loss/entropy": "unless all groups are flat",
    "loss/kl": "with a KL term",
    "loss/kl_bounded": "with a KL term",
    "loss/clipped_share": "unless all groups are flat",
    "loss/clipped_low": "unless all groups are flat",
    "loss/clipped_high": "unless all groups are flat",
    "loss/ratio_mean": "unless all groups are flat",
    "loss/ratio_above_2": "unless all groups are flat",
    "loss/ratio_bounded": "unless all groups are flat",
    "teacher/gradient_share": "unless all groups are flat",
    "loss/teacher_ratio_mean": "if there are teacher tokens",
    "loss/teacher_probability": "if there are teacher tokens",
    "loss/correction": "with an engine that is not the trainer",
    "loss/engine_gap": "with an engine that is not the trainer",
    "verify/from_<route>": "`verifier=math`",
    "verify/p99_ms": "`verifier=math`",
    "verify/kills": "`verifier=math`",
    "time/engine": "`rollout=vllm_server`",
}
"""When the others are there."""

PERIODIC = {
    "heldout/<name>": "held-out accuracy by evaluator, `greedy` and `sampled`",
    "time/evaluate": "seconds of evaluation",
    "time/checkpoint": "seconds that training stood still for a checkpoint",
    "engine/logprob_gap": "mean |log π − log π_engine| at sampled tokens, in nats",
    "engine/logprob_gap_max": "the largest of them",
    "consistency/cosine": "of the gradients with and without the teachers",
    "consistency/norm_ratio": "norm with over norm without",
    "consistency/norm": "norm of the gradient with the teachers",
    "consistency/norm_without": "norm of the gradient without",
}
"""Logged every ``eval_every``, ``save_every``, ``callbacks.watchdog.every`` or ``consistency_every`` steps."""

CLOCKED = ("time/", "rollout/tokens_per_second", "verify/p99_ms")
"""How the names begin of metrics that differ when the same run is repeated on the same machine."""

POSTERIOR, COMPLETIONS = "gate/posterior", "completions"
SHOWN = {
    POSTERIOR: "histogram of the posterior means of the step's prompts",
    COMPLETIONS: "table: prompt, best, worst and teacher's response, verdicts, advantages",
}
"""What TensorBoard alone shows, every ``eval_every`` steps."""


def listed(name: str) -> str:
    """The entry of a metric's name: itself, or its family's, as ``reward/<label>`` of ``reward/4-digit``.

    Raises:
        KeyError: there is none.
    """
    known = STEPWISE | PERIODIC
    families = [family for family in known if "<" in family and name.startswith(family.split("<")[0])]
    if name not in known and not families:
        raise KeyError(name)
    return name if name in known else max(families, key=len)


def page() -> str:
    """All names as Markdown, a line each."""
    parts = {
        "At every step": STEPWISE,
        "Every `eval_every` (`save_every`, `callbacks.watchdog.every`, `consistency_every`) steps": PERIODIC,
        "In TensorBoard alone, every `eval_every` steps": SHOWN,
    }
    lines = []
    for title, names in parts.items():
        lines.append(f"{title}:\n")
        for name, meaning in names.items():
            when = f" ({CONDITIONAL[name]})" if name in CONDITIONAL else ""
            lines.append(f"- `{name}`: {meaning}{when}")
        lines.append("")
    return "\n".join(lines)
