"""Which settings fit Qwen2.5 of three sizes into GPUs, as a Markdown table: that of docs/running.md.

    python benchmarks/plan_table.py                     # 1.5B, 7B and 32B on 1, 8 and 16 GPUs of 80 GiB
    python benchmarks/plan_table.py --models qwen_math_7b --gpus 4 --memory_gib 40

Each cell is `hapo plan` with `experiment=qwen_math_numina` (128 prompts, 8 responses of 8,192 tokens, bf16-mixed) and
the first of the settings below that fits.  No device is needed, and no weights.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import open_dict

from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.plan import Plan, plan_of
from hapo_lit.planning.run_memory import ONE_PROCESS, StrategyMemory

MODELS = {"qwen_math_1p5b": "1.5B", "qwen_math_7b": "7B", "qwen_32b": "32B"}
GPUS = [1, 8, 16]
ENGINES = ["vllm", "hf", "vllm_server"]
"""In the order in which they are tried: servers need devices of their own."""
ADAPTER = ["model.lora.rank=16", "+model.policy.dtype=bfloat16"]
"""Beside a bfloat16 base."""
TOKENS = [16_384, 9_216]
"""Of a pass: that of the preset, and one response of full length with its prompt."""
AT_ONCE = 8
"""Responses that are to be sampled at once, at least."""
GIB = 2**30


class Cell(NamedTuple):
    """What fits."""

    memory: StrategyMemory
    strategy: str
    engine: str
    adapter: bool
    tokens: int

    def __str__(self) -> str:
        plan, batch, sampling = self.memory.plan, self.memory.batch, self.memory.sampling
        words = ["LoRA, bf16 base"] if self.adapter else []
        words += [f"`{self.strategy}`"] if self.strategy != ONE_PROCESS else []
        words.append(f"`{self.engine}`")
        words += [f"{self.tokens:,} tokens a pass"] if self.tokens != TOKENS[0] else []
        if sampling.held and batch is not None:
            words.append(f"{sampling.at_once:,} of {batch.sequences:,} at once")
        return f"{', '.join(words)}: {plan.peak / GIB:.0f} GiB {plan.peak_moment}"


def planned(model: str, gpus: int, memory_gib: float, engine: str, adapter: bool, tokens: int) -> Plan:
    """`hapo plan` with some settings; of several GPUs with every strategy."""
    settings = [f"model={model}", f"processes={gpus}", f"memory_gib={memory_gib}", f"rollout={engine}"]
    settings += ["fabric.accelerator=cuda", f"module.micro_batch_tokens={tokens}", *(ADAPTER if adapter else [])]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("plan", ["experiment=qwen_math_numina", "paths.run=unused", *settings])
        with open_dict(config):
            config.pop("hydra", None)
        return plan_of(config)


def cell(model: str, gpus: int, memory_gib: float) -> Cell | None:
    """The first settings that fit, the simplest first; None = none do."""
    for adapter, engine, tokens in product((False, True), ENGINES, TOKENS):
        for strategy, memory in planned(model, gpus, memory_gib, engine, adapter, tokens).memory.strategies.items():
            most = 0 if memory.batch is None else memory.batch.sequences
            if memory.plan.peak <= memory_gib * GIB and memory.sampling.at_once >= min(AT_ONCE, most):
                return Cell(memory, strategy, engine, adapter, tokens)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*MODELS])
    parser.add_argument("--gpus", nargs="+", type=int, default=GPUS)
    parser.add_argument("--memory_gib", type=float, default=80)
    options = parser.parse_args()
    names = [f"{count} GPU{'s' if count > 1 else ''}" for count in options.gpus]
    print(f"| model | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for model in options.models:
        cells = [cell(model, gpus, options.memory_gib) for gpus in options.gpus]
        shown = ["nothing fits" if found is None else str(found) for found in cells]
        print(f"| {MODELS.get(model, model)} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
