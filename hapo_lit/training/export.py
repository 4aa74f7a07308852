"""The policy of a run as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hapo_lit.errors import ResumeError, one_line
from hapo_lit.policy.adapters import merged
from hapo_lit.policy.loading import NO_CODE, load_tokenizer, policy_like
from hapo_lit.storage.atomic import appearing
from hapo_lit.training.checkpoint_format import load
from hapo_lit.training.shards import MODULE, tensors_in


def policy_weights(path: Path) -> dict[str, Any]:
    """The policy's parameters in a checkpoint, those of a sharded one put together.

    Raises:
        ResumeError: the checkpoint was written by something else.
    """
    whole, prefix = load(path).get("module"), "policy."
    if whole is None:
        whole = {name.removeprefix(MODULE): tensor for name, tensor in tensors_in(path, MODULE + prefix).items()}
    return {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}


SAMPLE = (
    "Compute 7547-2293.\n7-3-0=04;4-9-0=15;\\boxed{5254}",
    "Find all real $x$ with $x^2-5x+6 \\le 0$.  Answer in \\boxed{}.",
    "It's 1,234.50 dollars; we'll pay 12/7 of them:\n\n\t- first 3%\r\n  - then 1000000\n",
    "<think>\nLet n = 2k + 1. Don't guess!</think>\n\nÉtienne has 3½ m² \u2014 naïve? \u8bc1\u660e\u3002 \U0001f600",
)
"""Texts that tokenizers take apart in different ways."""


def export(
    weights: Mapping[str, Any], model: Path, lora: Mapping[str, Any] | None, out: Path, prompts: Sequence[str] = ()
) -> str:
    """Write a policy, an adapter merged in; the folder appears under its name only when it is complete.

    Args:
        weights: of the policy, by name.
        model: a folder with the policy's configuration and tokenizer.
        lora: the adapter's settings, or None.
        out: the folder to write; one that is there is replaced only by a complete one.
        prompts: texts on which to try how the tokenizer is read, besides :data:`SAMPLE`.

    Returns:
        what others will read otherwise than this package, in one line; empty if nothing.
    """
    policy = policy_like(str(model), lora)
    try:
        policy.load_state_dict(weights, assign=True)  # without a second copy of them
        policy.tie_weights()
    except RuntimeError as error:
        raise ResumeError(f"the checkpoint does not fit the model of its run in {model}: {error}") from error
    with appearing(out.resolve()) as draft:
        merged(policy).save_pretrained(draft)
        tokenizer = load_tokenizer(str(model))
        tokenizer.save_pretrained(draft)
    return read_otherwise(out, tokenizer, (*prompts, *SAMPLE))


def read_otherwise(folder: Path, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> str:
    """A line if plain ``AutoTokenizer``, which vLLM uses too, gives other ids than the tokenizer in a folder should.

    Texts that the tokenizer itself cannot express are not compared.
    """
    plain = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
            continue
        ours, theirs = tokenizer(text)["input_ids"], plain(text)["input_ids"]
        if ours != theirs:
            return (
                f"AutoTokenizer, and so vLLM, reads the tokenizer in {folder} as {type(plain).__name__}, which gives "
                f"other ids: {one_line(text, 60)!r} becomes {len(theirs)} tokens and not these {len(ours)}; load it "
                f"with transformers.PreTrainedTokenizerFast.from_pretrained, and give vLLM token ids"
            )
    return ""
