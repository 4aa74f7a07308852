"""A tiny Qwen2 folder made on the spot: byte-level BPE, ChatML, and what users have wrong in theirs."""

from __future__ import annotations

from pathlib import Path

from support.builders import TINY
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hapo_lit.policy.loading import new_policy

END, TURN, TEXT_END = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MERGES = [("b", "o"), ("bo", "x"), ("box", "e"), ("boxe", "d"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("1", "2")]
THINK = ("<think>", "</think>")
"""Added tokens that are not special, as in Qwen3."""


def qwen_tokenizer(eos: str = END, appends_end: bool = False, chat_template: str = CHATML) -> PreTrainedTokenizerFast:
    """About 270 tokens; ``appends_end`` = its post-processor ends every text with ``<|im_end|>``."""
    vocabulary = {piece: index for index, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for pair in MERGES:
        vocabulary["".join(pair)] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in (TEXT_END, TURN, END)])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINK])
    if appends_end:
        pair = (END, backend.token_to_id(END))
        backend.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[pair])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=TEXT_END)
    made.chat_template = chat_template
    return made


def write_qwen(folder: Path, tokenizer: PreTrainedTokenizerFast, wider: int = 0, stops: list[str] | None = None) -> str:
    """Write a random policy with a tokenizer; returns the folder's name.

    Args:
        folder: to write.
        tokenizer: of the policy.
        wider: rows of embeddings and head that no token belongs to, as in Qwen's own models.
        stops: the tokens at which the generation configuration ends; None = the tokenizer's own end.
    """
    policy = new_policy("qwen2", {**TINY, "tie_word_embeddings": True}, tokenizer, 0)
    policy.resize_token_embeddings(len(tokenizer) + wider, mean_resizing=False)
    policy.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(stops or [tokenizer.eos_token])
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
