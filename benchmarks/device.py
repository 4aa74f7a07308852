"""What a run does on one GPU, which a machine without one cannot say: right numbers, time by phase, memory.

    python benchmarks/device.py                          # everything on CUDA; a table, and device.json
    python benchmarks/device.py --parts numbers model    # without the default experiment
    python benchmarks/device.py --steps 60               # a short default experiment
    python benchmarks/device.py --device cpu --tiny      # the same code at a size of seconds

It needs no network and no vLLM.  Besides torch, transformers, lightning and peft it needs this package and the rest of
its dependencies; for a machine that reaches no registry carry their wheels (``pip wheel -w wheels .`` elsewhere, ``pip
install --no-index --find-links wheels hapo_lit`` there): antlr4-python3-runtime 4.9, datasets with dill, multiprocess,
pyarrow and xxhash, hydra-core, latex2sympy2_extended, matplotlib, mpmath, numpy, omegaconf, pandas, pyyaml, rich,
scipy, sympy, tensorboard.

``numbers``: loss and gradient of a small model on the device, in float32 and bf16-mixed, as it is and sharded by FSDP2
on one process, against float32 on the CPU; the tolerances are :data:`TOLERANCES`.

``experiment``: the default experiment, by ``hapo train``; held-out accuracy before and after, seconds.

``model``: Qwen2.5-0.5B's shape with random weights, bf16-mixed, responses of 1,024 tokens.  Seconds of sampling and of
an update.  ``mfu``: floating-point operations of the update (6 for each weight and token that meets it, and attention)
over what the device could do in that time.  ``bandwidth``: bytes that decoding must read (every weight once a token in
the dtype it is computed in, the output head in float32, and all keys and values so far) over what it could read.
``peak``: most bytes allocated in a phase, against `hapo plan`'s number for it.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Fabric
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hapo_lit.advantages import GroupNormalised
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.cli.session import isolated_job
from hapo_lit.gates import NeverGate
from hapo_lit.injectors import NoInjection
from hapo_lit.losses import Surrogate
from hapo_lit.planning.memory_plan import GRADIENT, SAMPLING, STEP
from hapo_lit.planning.phase_plan import phase_plans
from hapo_lit.planning.run_memory import ONE_PROCESS, run_memory
from hapo_lit.policy.loading import meta_model
from hapo_lit.policy.model_config import kv_shape
from hapo_lit.protocols import ALONE
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rows import Rows, Text, UncastRows
from hapo_lit.schedules import Constant
from hapo_lit.teacher import NegativeLogLikelihood, UnitRatio
from hapo_lit.training.fabric_setup import open_fabric, set_up
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import trained_parameters
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.types import Experience, PromptBatch
from hapo_lit.weighting import TokenMean

QWEN: dict[str, Any] = {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True}
SMALL = QWEN | {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 8, "vocab_size": 4096}
HALF_BILLION = QWEN | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
HALF_BILLION |= {"num_attention_heads": 14, "vocab_size": 151_936}
CASES = [("32-true", "auto"), ("bf16-mixed", "auto"), ("32-true", "fsdp"), ("bf16-mixed", "fsdp")]
TOLERANCES = {"32-true": (1e-5, 1e-4), "bf16-mixed": (1e-3, 5e-2)}
"""Precision -> how far the loss may be off, relatively, and the gradient: the norm of the difference by its norm."""
PEAKS = {  # name -> dense bf16 operations and bytes of memory a second, by the makers' data sheets; the first that fits
    "H100 PCIe": (756e12, 2.0e12),
    "H100 NVL": (835e12, 3.9e12),
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
    "A100": (312e12, 2.04e12),
}
GIB = 2**30


class Sizes(NamedTuple):
    """Of the part ``model``."""

    shape: dict[str, Any] = HALF_BILLION
    prompts: int = 16
    samples: int = 8
    prompt: int = 256
    response: int = 1024
    micro_batch: int = 8


TINY_SHAPE = {**SMALL, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 256}
TINY = Sizes(TINY_SHAPE, prompts=2, samples=2, prompt=8, response=12, micro_batch=2)


class Coin:
    """A verifier to which every other response costs 1, also of those that never ended; responses are numbers."""

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        return torch.tensor([-(float(response) % 2) for response in responses])

    def metrics(self) -> dict[str, float]:
        return {}


def random_policy(shape: dict[str, Any]) -> PreTrainedModel:
    """Weights from torch's own generator, seeded, on the CPU."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=torch.float32).train()


def loss_and_gradient(device: str, precision: str, strategy: str, rows: Rows, shape: dict[str, Any]) -> tuple:
    """Of the negative log-likelihood of rows: a number, and the gradient as one vector on the CPU in float64."""
    with isolated_job():
        fabric = opened(device, precision, strategy)
        learn = Phase(Supervised(TokenMean()), Surrogate(NegativeLogLikelihood()), Constant(1e-6))
        optimizer = partial(torch.optim.AdamW, lr=1e-6)
        made = HapoModule(random_policy(shape), None, Phases(1, {"one": learn}), optimizer, {})
        wrapped = set_up(fabric, made, None)
        with fabric.autocast():
            loss = wrapped.uncast_loss(UncastRows(fabric.to_device(rows))).loss
            made.backward_pass(loss)
        parts = [parameter.grad for parameter in trained_parameters(made.policy)]
        parts = [part.full_tensor() if isinstance(part, DTensor) else part for part in parts]
        return loss.item(), torch.cat([part.double().cpu().flatten() for part in parts])


def opened(device: str, precision: str, strategy: str) -> Fabric:
    """Fabric on one process."""
    fabric = open_fabric(accelerator=device, devices=1, num_nodes=1, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def random_rows(count: int, prompt: int, response: int, vocabulary: int) -> Rows:
    """Teacher's rows of random tokens; prompts are padded, responses end at different places."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(response) < torch.randint(1, response + 1, (count, 1), generator=draw)
    return Rows(
        text=Text(
            torch.randint(vocabulary, (count, prompt), generator=draw),
            torch.arange(prompt) >= torch.randint(prompt, (count, 1), generator=draw),
            torch.randint(vocabulary, (count, response), generator=draw),
            mask,
        ),
        is_teacher=torch.ones(count, dtype=torch.bool),
        advantages=torch.ones(count),
        token_weights=mask / mask.sum(),
        confidence=torch.ones(count),
        old_logprobs=None,
        reference_logprobs=None,
        behaviour_logprobs=None,
        step=0,
    )


def numbers(device: str, shape: dict[str, Any] = SMALL, rows: int = 8, tokens: int = 64) -> list[dict[str, Any]]:
    """How far each case is from float32 on the CPU, and whether that is within the tolerances."""
    batch = random_rows(rows, tokens // 4, tokens, shape["vocab_size"])
    loss, gradient = loss_and_gradient("cpu", "32-true", "auto", batch, shape)
    table = []
    for precision, strategy in CASES:
        found, other = loss_and_gradient(device, precision, strategy, batch, shape)
        off = abs(found / loss - 1), float((other - gradient).norm() / gradient.norm())
        names = {"precision": precision, "strategy": strategy}
        within = all(error <= limit for error, limit in zip(off, TOLERANCES[precision], strict=True))
        table.append({**names, "loss_off": off[0], "gradient_off": off[1], "within": within})
    return table


def experiment(hapo: Callable[..., object], folder: Path, device: str, *settings: str) -> dict[str, float]:
    """What the default experiment comes to.

    Args:
        hapo: runs the command with arguments, in ``folder``.
        settings: more of them.
    """
    hapo("train", f"accelerator={device}", "devices=1", "hydra.run.dir=run", *settings)
    summary = json.loads((folder / "run/summary.json").read_text())
    names = ("steps", "greedy_before", "greedy_after", "sampled_after", "seconds_step", "tokens_per_second")
    return {name: summary[name] for name in names}


def command(folder: Path, *arguments: str) -> None:
    """The `hapo` command."""
    subprocess.run([sys.executable, "-m", "hapo_lit", *arguments], cwd=folder, check=True)


def run_of(policy: PreTrainedModel, sizes: Sizes) -> HapoModule:
    """A module that trains by GRPO, its engine the policy itself."""
    engine = HFEngine(sizes.response, stop_ids=[0])
    parts = (engine, Coin(), NeverGate(), NoInjection(), GroupNormalised(), TokenMean())
    phase = Phase(Hapo(sizes.samples, *parts), Surrogate(UnitRatio()), Constant(1e-6))
    optimizer = partial(torch.optim.AdamW, lr=1e-6)
    return HapoModule(policy, None, Phases(10, {"one": phase}), optimizer, {}, micro_batch_size=sizes.micro_batch)


def random_prompts(sizes: Sizes) -> PromptBatch:
    draw = torch.Generator().manual_seed(2)
    none = torch.zeros(sizes.prompts, 1)
    return PromptBatch(
        prompt_ids=torch.arange(sizes.prompts),
        tokens=torch.randint(1, sizes.shape["vocab_size"], (sizes.prompts, sizes.prompt), generator=draw),
        mask=torch.ones(sizes.prompts, sizes.prompt, dtype=torch.bool),
        answers=("",) * sizes.prompts,
        teacher_tokens=none.long(),
        teacher_mask=none.bool(),
        teacher_rewards=none[:, 0],
    )


def timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float, int | None]:
    """What a call returns, its seconds, and the most bytes that were allocated (None on a CPU)."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    result = call()
    if cuda:
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started, torch.cuda.max_memory_allocated(device) if cuda else None


def model(device: str, sizes: Sizes, peaks: tuple[float, float] | None, rounds: int = 2) -> dict[str, Any]:
    """Time, efficiency and memory of a step; of several rounds the fastest, after one that warms up."""
    fabric = opened(device, "bf16-mixed", "auto")
    made = run_of(random_policy(sizes.shape), sizes)
    wrapped = set_up(fabric, made, None)
    algorithm, prompts = made.phase.algorithm, fabric.to_device(random_prompts(sizes))
    first = HFEngine(1, stop_ids=[0])
    unread, measured = lambda _: [str(row) for row in range(sizes.prompts * sizes.samples)], []
    for _ in range(1 + rounds):
        with fabric.autocast(), torch.no_grad():
            for engine in (algorithm.engine, first):
                engine.sync(made.policy)
            _, prefill, _ = timed(lambda: first.generate(prompts, sizes.samples, made.step), fabric.device)
            collect = partial(algorithm.collect, prompts, made.step, unread, ALONE)
            experience, sampling, peak = timed(collect, fabric.device)
        with fabric.autocast():
            update = partial(made.optimise, experience, lambda rows: wrapped.uncast_loss(UncastRows(rows)))
            tallies, updating, most = timed(update, fabric.device)
        made.step += 1
        seconds = {"prefill": prefill, "sample": sampling, "update": updating}
        found = {"seconds": seconds, "peak": {"sample": peak, "update": most}}
        found["row_share"] = float(tallies["update/row_share"][0])
        measured.append(found | efficiency(made, experience, seconds, peaks))
    fastest = min(measured[1:], key=lambda found: found["seconds"]["sample"] + found["seconds"]["update"])
    return fastest | {"plan": planned(sizes, device == "cpu"), "parameters": made.policy.num_parameters()}


def efficiency(
    made: HapoModule, experience: Experience, seconds: dict[str, float], peaks: tuple[float, float] | None
) -> dict[str, float | None]:
    """Tokens a second, and shares of what the device can do; the last two are None where that is not known."""
    group, config = experience.group, made.policy.config
    responses = group.mask.flatten(0, 1).sum(1).double().cpu()
    lengths = responses + group.prompt_mask.sum(1).repeat_interleave(group.tokens.shape[1]).cpu()
    layers, heads, size = kv_shape(config)
    head = made.policy.get_output_embeddings().weight.numel()
    inner = made.policy.num_parameters() - head * (1 if config.tie_word_embeddings else 2)
    width = config.num_attention_heads * size
    operations = 6 * (inner * lengths.sum() + head * responses.sum() + layers * width * (lengths**2).sum())
    decoded = int(responses.max()) - 1  # the first token is the prefill's
    cached = sum(float((lengths - responses + responses.clamp(max=step)).sum()) for step in range(1, decoded + 1))
    read = decoded * (2 * inner + 4 * head) + cached * layers * heads * size * (
        4 + 2
    )  # keys are float32, see hapo plan
    decoding = max(seconds["sample"] - seconds["prefill"], 1e-9)
    return {
        "tokens": float(responses.sum()),
        "tokens_per_second": float(responses.sum()) / seconds["sample"],
        "mfu": float(operations) / seconds["update"] / peaks[0] if peaks else None,
        "bandwidth": read / decoding / peaks[1] if peaks else None,
    }


def planned(sizes: Sizes, on_cpu: bool) -> dict[str, int]:
    """Bytes that `hapo plan` gives for each phase."""
    made = run_of(meta_model("none", sizes.shape), sizes)
    plans = phase_plans(made, sizes.prompts, 1, sizes.prompt, sizes.response)
    memory = run_memory(made, plans, True, {ONE_PROCESS: None}, on_cpu=on_cpu).strategies[ONE_PROCESS].plan
    return {"sample": memory.at(SAMPLING), "update": max(memory.at(GRADIENT), memory.at(STEP))}


def table(results: dict[str, Any]) -> str:
    """All results as Markdown."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    lines = [f"device: {results['device']}, torch {results['torch']}"]
    if "numbers" in results:
        lines += ["", "| precision | strategy | loss off | gradient off | within tolerance |", "|---|---|---|---|---|"]
        for row in results["numbers"]:
            off = f"{row['loss_off']:.1e} | {row['gradient_off']:.1e} | {'yes' if row['within'] else 'NO'}"
            lines.append(f"| {row['precision']} | {row['strategy']} | {off} |")
    if "experiment" in results:
        lines += ["", "| default experiment | |", "|---|---|"]
        lines += [f"| {name} | {value:,.3f} |" for name, value in results["experiment"].items()]
    if "model" in results:
        found = results["model"]
        lines += ["", "| phase | seconds | peak GiB | planned GiB |", "|---|---|---|---|"]
        for phase, seconds in found["seconds"].items():
            sizes = [found[kind].get(phase) for kind in ("peak", "plan")]
            cells = ["-" if size is None else f"{size / GIB:.2f}" for size in sizes]
            lines.append(f"| {phase} | {seconds:.3f} | {' | '.join(cells)} |")
        speed = f"{found['tokens_per_second']:,.0f} tokens/s sampled"
        lines.append(
            f"\n{speed}, {share(found['mfu'])} MFU of the update, {share(found['bandwidth'])} of the bandwidth"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--parts", nargs="+", default=["numbers", "experiment", "model"])
    parser.add_argument("--steps", type=int, default=600, help="of the default experiment")
    parser.add_argument("--tiny", action="store_true", help="a size of seconds, to see that it runs")
    parser.add_argument("--out", default="device.json")
    parser.add_argument("--peaks", nargs=2, type=float, metavar=("FLOPS", "BYTES"), help="a second, of the device")
    options = parser.parse_args()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    peaks = options.peaks or next((found for part, found in PEAKS.items() if part in name), None)
    results: dict[str, Any] = {"device": name, "torch": torch.__version__}
    if "numbers" in options.parts:
        results["numbers"] = numbers(options.device, *((TINY.shape, 3, 8) if options.tiny else ()))
    if "experiment" in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            steps = ["debug=fast"] if options.tiny else [f"steps={options.steps}"]
            results["experiment"] = experiment(partial(command, folder), Path(folder), options.device, *steps)
    if "model" in options.parts:
        results["model"] = model(options.device, TINY if options.tiny else Sizes(), peaks)
    Path(options.out).write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    raise SystemExit(not all(row["within"] for row in results.get("numbers", ())))


if __name__ == "__main__":
    main()
