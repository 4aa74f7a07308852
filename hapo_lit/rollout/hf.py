"""The reference engine: samples from the very model that is trained, through transformers.

Each prompt is prefilled once and its cache of keys and values is repeated for the ``G`` samples.  Rows that have ended
leave the batch when they are next looked at, which is when the host waits for the device.  The next token is drawn by
inverting the cumulative distribution, see :mod:`hapo_lit.numerics.categorical`: ``torch.multinomial`` takes many times
as long on a CPU with a large vocabulary.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from hapo_lit.device_memory import USABLE, DeviceMemory, RolloutBatch, SamplingMemory, sequences_that_fit
from hapo_lit.numerics.categorical import draw
from hapo_lit.policy.compiling import as_written
from hapo_lit.policy.fakes import fake_copy, fake_mode, over_layers
from hapo_lit.policy.memory_tracker import MemoryTracker, storage_bytes
from hapo_lit.policy.output_head import Head, head_of
from hapo_lit.policy.scoring import positions
from hapo_lit.policy.vocabulary import unreadable_ids, without_unreadable
from hapo_lit.rollout.free_memory import memory_of
from hapo_lit.rollout.grouped_attention import decoding_attention
from hapo_lit.rollout.growing_cache import cache_tensors, full_cache, growing_cache
from hapo_lit.rollout.packed_decoder import PackedDecoder, can_be_packed
from hapo_lit.rollout.sampling import Sampling, rollout_group
from hapo_lit.types import PromptBatch, RolloutGroup

LOOK_EVERY = 16
"""Tokens between two looks at which rows have ended, where a look lets the host wait for a device."""


class HFEngine(Sampling):
    """Samples with a transformers model in process.

    Args:
        max_num_seqs: sequences decoded at once; None = on a CPU all, elsewhere as many as fit into what is free when it
            samples first.  Fewer take less memory, for their keys and values, and more time.
        max_prompt_tokens: of the data, for that choice; None = as long as the prompts are.
        look_every: tokens between two looks at which rows have ended, each of which lets the host wait for the device;
            None = 1 on a CPU, :data:`LOOK_EVERY` elsewhere.  Rows that have ended go on until then, and what they draw
            is dropped.
        settings: those of :class:`Sampling`.

    What is drawn depends on neither of these numbers; log-probabilities may in their last digits (by less than 1e-5 in
    float32), as they do on the number of rows that are multiplied at once.

    It samples from the trainer's own model, so its log-probabilities need no correction; they serve to break ties and
    to be looked at.  They are those of the distribution sampled from (at temperature 0: of the model's own, temperature
    1).
    """

    is_trainer = True

    _policy: PreTrainedModel | None = None
    _chosen: tuple[RolloutBatch, int] | None = None
    """For what batch a number of sequences was chosen, and that number."""

    def __init__(
        self,
        *args: Any,
        max_num_seqs: int | None = None,
        max_prompt_tokens: int | None = None,
        look_every: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        for name, value in (("max_num_seqs", max_num_seqs), ("look_every", look_every)):
            if value is not None and value < 1:
                raise ValueError(f"rollout.{name} must be at least 1 or null, got {value}")
        self.max_num_seqs, self.max_prompt_tokens, self.look_every = max_num_seqs, max_prompt_tokens, look_every
        self._to_come: Callable[[], int] = int

    def reserve_memory(self, to_come: Callable[[], int]) -> None:
        """See :class:`hapo_lit.protocols.ReservesMemory`."""
        self._to_come = to_come

    def sync(self, policy: torch.nn.Module) -> None:
        """Hold on to the model itself: weights that are updated in place need no copy."""
        self._policy = policy  # type: ignore[assignment]

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        """See :class:`hapo_lit.protocols.RolloutEngine`."""
        if self._policy is None:
            raise RuntimeError("HFEngine.generate was called before sync(policy)")
        started = time.perf_counter()
        was_training = self._policy.training
        self._policy.eval()
        on_cpu = self._policy.device.type == "cpu"
        with decoding_attention(self._policy, on_cpu), as_written(self._policy):
            tokens, logprobs, lengths, finished = self._sample(self._policy, prompts, group_size, step)
        self._policy.train(was_training)

        self.record(float(lengths.sum()), time.perf_counter() - started)
        return rollout_group(prompts, group_size, tokens, logprobs, lengths, finished)

    def memory(
        self, policy: torch.nn.Module, batch: RolloutBatch, device: DeviceMemory | None = None
    ) -> SamplingMemory:
        """See :class:`hapo_lit.protocols.RolloutEngine`; the fewer sequences at once, the less."""
        assert isinstance(policy, PreTrainedModel)
        held = cache(lambda sequences: self._held(policy, batch._replace(sequences=sequences), device is None))
        count = min(batch.sequences, self.max_num_seqs or batch.sequences)
        if self.max_num_seqs is None and device is not None:
            count = sequences_that_fit(lambda number: sum(held(number).values()), count, int(USABLE * device.free))
        return SamplingMemory(held(count), count)

    @torch.no_grad()
    def _held(self, policy: PreTrainedModel, batch: RolloutBatch, on_cpu: bool) -> dict[str, int]:
        """Bytes for sequences that are decoded together, by kind.

        That is the worse of two moments: their prompts are computed, or the last token of each response is drawn.
        """
        was_training = policy.training
        policy.eval()  # in training there is no cache beside gradient checkpoints
        with warnings.catch_warnings(), decoding_attention(policy, on_cpu):
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # it is always 0
            moments = [
                over_layers(policy, partial(moment, policy, batch, on_cpu))
                for moment in (self._held_at_the_start, self._held_at_the_end)
            ]
        policy.train(was_training)
        return max(moments, key=lambda held: sum(held.values()))

    def _held_at_the_start(self, policy: PreTrainedModel, batch: RolloutBatch, on_cpu: bool) -> Mapping[str, int]:
        mask = torch.ones(batch.prompts, batch.prompt, dtype=torch.bool, device=policy.device)
        torch.clear_autocast_cache()  # so that casts of the weights are counted below
        with MemoryTracker(policy.parameters(), policy.buffers(), _vocabulary(policy)) as tracker:
            output = policy.get_decoder()(
                input_ids=mask.long(),
                attention_mask=mask.long(),
                position_ids=positions(mask),
                past_key_values=growing_cache(policy),
                use_cache=True,
            )
            head_of(policy).logits(output.last_hidden_state[:, -1])
        return dict(tracker.peak)

    def _held_at_the_end(self, policy: PreTrainedModel, batch: RolloutBatch, on_cpu: bool) -> Mapping[str, int]:
        """With keys and values with their spare room."""
        sequences, device = batch.sequences, policy.device
        token = torch.zeros(sequences, 1, dtype=torch.int64, device=device)
        decoder = policy.get_decoder()
        first = decoder(input_ids=token, past_key_values=growing_cache(policy), use_cache=True)
        torch.clear_autocast_cache()
        # in mixed precision keys, which have met the rotary embedding, are wider than values
        layer = first.past_key_values.layers[0]
        dtypes = layer.keys.dtype, layer.values.dtype
        full = full_cache(policy, sequences, batch.prompt, batch.tokens - 1, dtypes)
        mask = torch.ones(sequences, batch.prompt, dtype=torch.bool, device=device)
        bias = _attention_bias(mask, batch.response, dtypes[1])
        with MemoryTracker(
            policy.parameters(), [*policy.buffers(), *cache_tensors(full)], _vocabulary(policy)
        ) as tracker:
            next_logits = _decoder(policy, head_of(policy), batch.tokens, on_cpu)
            seen = bias[..., : batch.tokens]  # by the slice the bias is counted too
            logits = next_logits(token[:, 0], token[:, 0], seen, full)
            self._draw(logits, torch.zeros(sequences, dtype=torch.float64, device=device), unreadable_ids(policy))
        return {"keys and values": storage_bytes(cache_tensors(full)), **tracker.peak}

    def _at_once(self, policy: PreTrainedModel, sequences: int, group_size: int, prompt: int) -> int:
        """How many sequences to decode at once."""
        device = policy.device
        if self.max_num_seqs is not None or device.type == "cpu":
            return self.max_num_seqs or max(1, sequences)
        batch = RolloutBatch(sequences, max(prompt, self.max_prompt_tokens or 0), self.max_new_tokens, group_size)
        if self._chosen is None or batch.sequences > self._chosen[0].sequences or batch.prompt > self._chosen[0].prompt:
            chosen = self.sequences_for(policy, batch, memory_of(device, self._to_come()))
            self._chosen = batch, chosen
            if chosen < sequences and (not dist.is_initialized() or dist.get_rank() == 0):
                print(f"chosen: rollout.max_num_seqs={chosen}, of {sequences} sequences, by what is free", flush=True)
        return self._chosen[1]

    def sequences_for(self, policy: PreTrainedModel, batch: RolloutBatch, device: DeviceMemory) -> int:
        """How many sequences are decoded at once where that is not set, for which nothing is allocated."""
        fakes, kind = fake_mode(), policy.device.type
        copied = fake_copy(policy, fakes)
        mixed, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with fakes, torch.autocast("cpu", dtype, enabled=mixed):
            return self.memory(copied, batch, device).at_once

    def _sample(
        self, policy: PreTrainedModel, prompts: PromptBatch, group_size: int, step: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``tokens [N, T]``, ``logprobs [N, T]``, ``lengths [N]``, ``finished [N]``."""
        prompt_of = torch.arange(len(prompts.answers)).repeat_interleave(group_size)
        uniforms = torch.from_numpy(self._uniforms(prompts.prompt_ids.tolist(), group_size, step))
        size = self._at_once(policy, len(prompt_of), group_size, prompts.tokens.shape[1])
        parts = [
            self._decode(policy, prompts, rows.to(prompts.tokens.device), drawn.to(prompts.tokens.device))
            for rows, drawn in zip(prompt_of.split(size), uniforms.split(size), strict=True)
        ]
        tokens, logprobs, lengths, finished = (torch.cat(column) for column in zip(*parts, strict=True))
        return tokens, logprobs, lengths, finished

    def _decode(
        self, policy: PreTrainedModel, prompts: PromptBatch, prompt_of: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same for sequences that are decoded together.

        Args:
            prompt_of: ``[n]`` the prompt of each sequence, in order.
            uniforms: ``[n, T]`` what decides its draws.
        """
        device, count, limit = prompts.tokens.device, len(prompt_of), self.max_new_tokens
        stops, unreadable = torch.tensor(self.stops(policy), device=device), unreadable_ids(policy)
        tokens = torch.zeros(count, limit, dtype=torch.int64, device=device)
        logprobs = torch.zeros(count, limit, device=device)

        cache, decoder, head = growing_cache(policy), policy.get_decoder(), head_of(policy)
        width = prompts.tokens.shape[1]
        next_logits = _decoder(policy, head, width + limit, device.type == "cpu")
        first, last = int(prompt_of[0]), int(prompt_of[-1]) + 1
        mask, repeated = prompts.mask[first:last], prompt_of - first
        hidden = decoder(
            input_ids=prompts.tokens[first:last],
            attention_mask=mask.long(),
            position_ids=positions(mask),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.batch_select_indices(repeated)
        logits = head.logits(hidden[:, -1])[repeated]
        bias = _attention_bias(mask, limit, cache.layers[0].values.dtype)[repeated]
        offset = mask.sum(1)[repeated]
        rows = torch.arange(count, device=device)  # which row of the result each row of the running batch is
        ended = torch.zeros_like(rows, dtype=torch.bool)
        uniforms_TN = uniforms.T.contiguous()
        look_every = self.look_every or (1 if device.type == "cpu" else LOOK_EVERY)
        since: list[tuple[Tensor, Tensor]] = []  # what was drawn since rows last left the batch

        for position in range(limit):  # what is in this loop waits for a device where it looks, and nowhere else
            drawn, logprob = self._draw(logits, uniforms_TN[position], unreadable)
            since.append((drawn, logprob))
            ended = ended | (drawn[:, None] == stops).any(1)
            at_limit = position + 1 == limit
            looks = (position + 1) % look_every == 0 and not at_limit
            alive = len(rows) - int(ended.sum()) if looks else len(rows)
            done = alive == 0 or at_limit
            leave = looks and alive <= 0.8 * len(rows)  # rows that have ended leave the batch, a few at a time
            if done or leave:
                span = slice(position + 1 - len(since), position + 1)
                tokens[rows, span] = torch.stack([token for token, _ in since], 1)
                logprobs[rows, span] = torch.stack([logprob for _, logprob in since], 1).to(logprobs)
                since = []
            if done:
                break
            if leave:
                keep = (~ended).nonzero().squeeze(1)
                rows, ended, drawn = rows[keep], ended[keep], drawn[keep]
                bias, offset, uniforms_TN = bias[keep], offset[keep], uniforms_TN[:, keep]
                cache.batch_select_indices(keep)
            logits = next_logits(drawn, offset + position, bias.narrow(3, 0, width + position + 1), cache)
        return _ended(tokens, logprobs, stops)

    def _draw(self, logits: Tensor, uniforms: Tensor, unreadable: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token per row and its log-probability, by inverse cumulative distribution; greedy at temperature 0."""
        logits = without_unreadable(logits, unreadable)
        if self.temperature == 0:
            best = logits.argmax(-1)
            return best, logits.float().log_softmax(-1).gather(-1, best[:, None]).squeeze(-1)
        return draw(logits, uniforms, self.temperature)

    def _uniforms(self, prompt_ids: Sequence[int], group_size: int, step: int) -> np.ndarray:
        """``[N, T] float64`` in [0, 1): one generator per (seed, prompt, sample, step), so that a draw depends on
        neither rank nor batch order and there is no generator to checkpoint."""
        return np.stack(
            [
                np.random.default_rng((self.seed, prompt, sample, step)).random(self.max_new_tokens)
                for prompt in prompt_ids
                for sample in range(group_size)
            ]
        )


def _ended(tokens: Tensor, logprobs: Tensor, stops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both ``[n, T]`` with nothing behind the first stop, lengths, and which have one."""
    is_stop = torch.isin(tokens, stops)
    finished = is_stop.any(1)
    lengths = torch.where(finished, is_stop.int().argmax(1) + 1, tokens.shape[1])
    beyond = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    return tokens.masked_fill(beyond, 0), logprobs.masked_fill(beyond, 0), lengths, finished


def _decoder(
    policy: PreTrainedModel, head: Head, length: int, on_cpu: bool
) -> Callable[[Tensor, Tensor, Tensor, Cache], Tensor]:
    """What :class:`PackedDecoder` is, by itself where it can be or by transformers."""
    if on_cpu and can_be_packed(policy):
        return PackedDecoder(policy, head, length)
    decoder = policy.get_decoder()

    def next_logits(tokens: Tensor, places: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        output = decoder(
            input_ids=tokens[:, None],
            attention_mask=bias,
            position_ids=places[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        return head.logits(output.last_hidden_state[:, -1])

    return next_logits


def _vocabulary(policy: PreTrainedModel) -> int:
    return int(policy.get_output_embeddings().weight.shape[0])


def _attention_bias(prompt_mask: Tensor, limit: int, dtype: torch.dtype) -> Tensor:
    """``[P, 1, 1, S + limit]``: 0 where a new token may look, the dtype's minimum on the padding of its prompt.

    ``dtype``: what attention computes in, which is that of the values.
    """
    width = prompt_mask.shape[1]
    bias = torch.zeros(len(prompt_mask), 1, 1, width + limit, dtype=dtype, device=prompt_mask.device)
    bias[:, 0, 0, :width].masked_fill_(~prompt_mask, torch.finfo(dtype).min)
    return bias
