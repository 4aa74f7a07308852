"""What sampling costs with each engine, and what keeping its weights up to date adds to a step.

    python benchmarks/rollout.py                    # all engines that are installed, 5 and 94 million parameters
    python benchmarks/rollout.py --sizes 5M --engines hf vllm --rounds 5

A batch is 8 prompts of 16 tokens with 8 samples each, at most 128 new tokens, float32, one thread, log-probabilities
asked for where the engine gives them.  ``equal``: nothing ends a response.  ``ragged``: one token in 48 does, so that
lengths are geometric.  Each cell is a process of its own; CPU seconds are those of the best round, and depend little on
what else the machine does.  The step that ``sync`` is held against samples, makes one AdamW update on the rows, syncs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec

SIZES = {
    "5M": {"hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 704},
    "94M": {"hidden_size": 768, "num_hidden_layers": 11, "num_attention_heads": 12, "intermediate_size": 2048},
}
VOCABULARY = {"5M": 4096, "94M": 20480}
ENGINES = ["hf", "vllm", "generate", "generate_batch"]
LENGTHS = ["equal", "ragged"]
PROMPTS, SAMPLES, PROMPT, LIMIT = 8, 8, 16, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cell", nargs=3, metavar=("SIZE", "ENGINE", "LENGTHS"), help="this one alone, as JSON")
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(cell(*options.cell, options.rounds)))
        return
    print("| parameters | lengths | engine | tokens | tokens/s | CPU s | peak GB | sync ms | sync, share of a step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in options.sizes:
        for lengths in LENGTHS:
            for engine in options.engines:
                if engine == "vllm" and find_spec("vllm") is None:
                    continue
                print(row(size, engine, lengths, options.rounds), flush=True)


def row(size: str, engine: str, lengths: str, rounds: int) -> str:
    """A line of the table, measured in a process of its own."""
    command = [sys.executable, __file__, "--cell", size, engine, lengths, "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{size} {engine} {lengths} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    sync = f"{1000 * found['sync']:.0f} | {100 * found['sync'] / found['step']:.1f} %" if found["sync"] else "none | -"
    return (
        f"| {found['parameters'] / 1e6:.1f}M | {lengths} | {engine} | {found['tokens']:,} | {found['speed']:,.0f} | "
        f"{found['cpu']:.1f} | {found['peak']:.1f} | {sync} |"
    )


def cell(size: str, engine: str, lengths: str, rounds: int) -> dict[str, float]:
    """One engine on one batch: the best of some rounds after one that warms up, all times in CPU seconds."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = SIZES[size]
    config = Qwen2Config(
        **shape,
        num_key_value_heads=shape["num_attention_heads"],
        vocab_size=VOCABULARY[size],
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.02,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().eval()
    prompts = torch.randint(3, VOCABULARY[size], (PROMPTS, PROMPT))
    stops = list(range(3, VOCABULARY[size], 48)) if lengths == "ragged" else [VOCABULARY[size] - 1]
    ways = {"hf": partial(ours, "hf"), "vllm": partial(ours, "vllm")}
    ways |= {"generate": generate, "generate_batch": generate_batch}
    sample, sync = ways[engine](model, prompts, stops)
    tokens = sample(0)
    best: dict[str, float] = {}
    update(model, prompts, tokens)  # makes the moments
    for index in range(1, rounds + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        tokens = sample(index)
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "tokens": sum(map(len, tokens))}
        if not best or took["cpu"] / took["tokens"] < best["cpu"] / best["tokens"]:
            best = took
    cpu = time.process_time()
    update(model, prompts, tokens)
    learnt = time.process_time() - cpu
    syncs = []
    for _ in range(rounds if sync else 0):
        cpu = time.process_time()
        sync()
        syncs.append(time.process_time() - cpu)
    synced = min(syncs, default=0.0)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": int(best["tokens"]),
        "speed": best["tokens"] / best["wall"],
        "cpu": best["cpu"],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "sync": synced,
        "step": best["cpu"] + learnt + synced,
    }


def update(model, prompts, tokens) -> None:
    """One AdamW step on the rows, as the trainer makes it."""
    import torch

    from hapo_lit.policy.scoring import token_logprobs
    from hapo_lit.rows import Text

    lengths = torch.tensor([len(response) for response in tokens])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    flat = torch.tensor([token for response in tokens for token in response])
    padded = torch.zeros(mask.shape, dtype=torch.int64).masked_scatter(mask, flat)
    repeated = prompts.repeat_interleave(SAMPLES, 0)
    text = Text(repeated, torch.ones_like(repeated, dtype=torch.bool), padded, mask)
    if not hasattr(model, "optimizer"):
        model.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    model.train()
    model.optimizer.zero_grad()
    for chunk in torch.arange(len(mask)).split(16):
        logprobs, _ = token_logprobs(model, text.select(chunk))
        (logprobs.sum() / mask.sum()).backward()
    model.optimizer.step()
    model.eval()


def ours(engine, model, prompts, stops, samples=SAMPLES, limit=LIMIT):
    """An engine of this package; the reference needs no sync."""
    import torch

    from hapo_lit.rollout.hf import HFEngine
    from hapo_lit.types import PromptBatch

    if engine == "hf":
        made = HFEngine(limit, stop_ids=stops)
    else:
        from hapo_lit.rollout.vllm import VLLMEngine

        made = VLLMEngine(limit, PROMPT, PROMPTS, samples, stop_ids=stops)
    made.sync(model)
    none = torch.zeros(len(prompts), 1)
    batch = PromptBatch(
        prompt_ids=torch.arange(len(prompts)),
        tokens=prompts,
        mask=torch.ones_like(prompts, dtype=torch.bool),
        answers=("",) * len(prompts),
        teacher_tokens=none.long(),
        teacher_mask=none.bool(),
        teacher_rewards=none[:, 0],
    )

    def sample(step):
        group = made.generate(batch, samples, step)
        rows = zip(group.tokens.flatten(0, 1), group.mask.flatten(0, 1), strict=True)
        return [tokens[mask].tolist() for tokens, mask in rows]

    return sample, (None if engine == "hf" else lambda: made.sync(model))


def generate(model, prompts, stops, samples=SAMPLES, limit=LIMIT):
    """Transformers' own loop, which reports no log-probabilities here."""
    import torch

    def sample(step):
        torch.manual_seed(step)
        out = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            num_return_sequences=samples,
            max_new_tokens=limit,
            eos_token_id=stops,
            pad_token_id=0,
        )[:, prompts.shape[1] :].tolist()
        ended = [next((i + 1 for i, token in enumerate(row) if token in stops), len(row)) for row in out]
        return [row[:end] for row, end in zip(out, ended, strict=True)]

    return sample, None


def generate_batch(model, prompts, stops):
    """Transformers' continuous batching."""
    import torch
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    settings = GenerationConfig(
        max_new_tokens=LIMIT, do_sample=True, top_k=0, eos_token_id=stops, pad_token_id=0, temperature=1.0
    )
    pages = PROMPTS * SAMPLES * -(-(PROMPT + LIMIT) // 32) + 8
    batching = ContinuousBatchingConfig(page_size=32, num_blocks=pages, max_batch_tokens=1024, return_logprobs=True)

    def sample(step):
        torch.manual_seed(step)
        implementation = model.config._attn_implementation
        out = model.generate_batch(
            inputs=[row.tolist() for row in prompts for _ in range(SAMPLES)],
            generation_config=settings,
            continuous_batching_config=batching,
            progress_bar=False,
        )
        model.set_attn_implementation(implementation)
        return [answer.generated_tokens for answer in out.values()]

    return sample, None


if __name__ == "__main__":
    main()
