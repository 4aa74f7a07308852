"""How far `hapo plan`'s memory of a backward pass is from what a process really takes, for models of three sizes.

    python benchmarks/memory.py      # six minutes on one core

``planned``: the dry run, on tensors without contents.  ``tensors``: the same count on a real pass.  ``allocator``: the
most that torch's allocator had given out during the pass, kernels' own buffers included, as torch.profiler saw it.
``resident``: the growth of the process's peak resident memory, in a process of its own (Linux).  All in MiB, beside
weights and gradients; two rows of 64 + 448 tokens, on one CPU thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hapo_lit.algorithm import Supervised
from hapo_lit.losses import Surrogate
from hapo_lit.planning.memory_dry_run import DryRun, blank_rows, track_gradient
from hapo_lit.policy.loading import meta_model
from hapo_lit.rows import Rows
from hapo_lit.schedules import Constant
from hapo_lit.teacher import NegativeLogLikelihood
from hapo_lit.training.module import HapoModule
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.weighting import TokenMean

ROWS, PROMPT, RESPONSE = 2, 64, 448
MODELS = {  # name -> width, width between, layers, vocabulary
    "6 million": (256, 704, 4, 8_000),
    "38 million": (512, 1408, 8, 24_000),
    "138 million": (768, 2560, 12, 50_000),
}
MIB = 2**20


def shape(name: str) -> dict[str, object]:
    width, between, layers, vocabulary = MODELS[name]
    heads = width // 64
    sizes = {"hidden_size": width, "intermediate_size": between, "num_hidden_layers": layers, "vocab_size": vocabulary}
    return {**sizes, "model_type": "qwen2", "num_attention_heads": heads, "num_key_value_heads": heads // 2}


def module(policy: PreTrainedModel) -> HapoModule:
    learn = Phase(Supervised(TokenMean()), Surrogate(NegativeLogLikelihood()), Constant(1e-6))
    return HapoModule(policy, None, Phases(1, {"one": learn}), partial(torch.optim.AdamW, lr=1e-6), {})


def real(name: str, checkpointing: bool) -> HapoModule:
    policy = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape(name)), dtype=torch.float32).train()
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
        policy.disable_input_require_grads()
    return module(policy)


def one_pass(made: HapoModule, mixed: bool, response: int = RESPONSE) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = made.loss(rows(made, response)).loss
        with torch.autocast("cpu", enabled=False):
            loss.backward()


def rows(made: HapoModule, response: int = RESPONSE) -> Rows:
    """The longest ones, but for one token of padding: a batch without any needs no mask, and less memory."""
    batch = blank_rows(made, ROWS, PROMPT, response)
    batch.text.prompt_mask[0, 0] = False
    return batch


def allocated(made: HapoModule, mixed: bool) -> int:
    """The allocator's peak above what it had given out before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        one_pass(made, mixed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    steps = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    now = peak = 0
    for _, size in steps:
        now += size
        peak = max(peak, now)
    return peak


def measure(name: str, checkpointing: bool, mixed: bool) -> dict[str, int]:
    dry = DryRun(module(meta_model("none", shape(name), gradient_checkpointing=checkpointing)), mixed)
    found = {"planned": dry.gradient(ROWS, PROMPT, RESPONSE).peak.total()}
    made = real(name, checkpointing)
    found["tensors"] = track_gradient(made, rows(made), mixed).peak.total()
    found["allocator"] = allocated(made, mixed)
    alone = [sys.executable, __file__, name, str(int(checkpointing)), str(int(mixed))]
    at_once = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back
    found["resident"] = int(subprocess.run(alone, env=at_once, capture_output=True, text=True, check=True).stdout)
    return found


def resident(name: str, checkpointing: bool, mixed: bool) -> int:
    made = real(name, checkpointing)
    for parameter in made.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one_pass(made, mixed, response=8)  # libraries, threads, and pages of the gradients
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    one_pass(made, mixed)
    return status("VmHWM") - before


def status(name: str) -> int:
    """Bytes, as the kernel states them."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(resident(sys.argv[1], bool(int(sys.argv[2])), bool(int(sys.argv[3]))))
        return
    print("| parameters | precision | checkpointing | planned | tensors | allocator | resident |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS:
        for mixed in (False, True):
            for checkpointing in (False, True):
                found = measure(name, checkpointing, mixed)
                cells = [name, "bf16-mixed" if mixed else "32-true", "yes" if checkpointing else "no"]
                cells += [f"{size / MIB:,.1f}" for size in found.values()]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
