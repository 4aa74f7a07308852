"""What a step holds in memory, counted by running the module's own code on tensors that have shapes and no contents.

Such a dry run (PyTorch's ``FakeTensorMode``) takes seconds for a model of any size and no memory, and sees whatever the
code really keeps: activations or their checkpoints, chunks of logits, autocast's casts of the weights.  What depends on
values is taken at its worst: every position is a token, every row counts.  Attention is that of a fused kernel.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hapo_lit.policy.model_config import kv_shape
from hapo_lit.rollout.hf import HFEngine, _attention_bias, _growing_cache
from hapo_lit.rows import Rows, Text
from hapo_lit.training.optimizer import trained_parameters

CASTS, LOGITS, REST = "casts of the weights", "logits", "activations"
"""Kinds of what lives during a step."""

aten = torch.ops.aten


class Footprint(TorchDispatchMode):
    """A context that counts the bytes of storages that come into being inside, for as long as they live.

    Args:
        weights: parameters: their storages are there already, and casts of them are a kind of their own.
        others: further tensors that are there already.
        vocabulary: size of a tensor's last dimension by which logits are known.
    """

    def __init__(self, weights: Iterable[Tensor], others: Iterable[Tensor] = (), vocabulary: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = list(weights)
        self._weights = {_key(each) for each in weights}
        self._held = [*weights, *others]  # keys must not be used again while they are known
        self._known = {_key(each) for each in self._held}
        self._vocabulary = vocabulary
        self._alive: dict[int, tuple[str, int]] = {}
        self.now: Counter[str] = Counter()
        """Bytes alive, by kind."""
        self.peak: Counter[str] = Counter()
        """The same when their sum was largest."""
        self.most_logits = 0
        """Bytes of logits alive at once, at most."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _without_contents(func, args, kwargs or {})
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and _key(each) not in self._known and _key(each) not in self._alive:
                self._add(each, func, args)
        return result

    def _add(self, tensor: Tensor, func: Any, args: Any) -> None:
        kind = REST
        if func is aten._to_copy.default and _key(args[0]) in self._weights:
            kind = CASTS
        elif self._vocabulary is not None and tensor.ndim > 1 and tensor.shape[-1] == self._vocabulary:
            kind = LOGITS
        storage = tensor.untyped_storage()
        key, size = _key(tensor), storage.nbytes()
        self._alive[key] = (kind, size)
        weakref.finalize(storage, self._remove, key)
        self.now[kind] += size
        self.most_logits = max(self.most_logits, self.now[LOGITS])
        if self.now.total() > self.peak.total():
            self.peak = self.now.copy()

    def _remove(self, key: int) -> None:
        kind, size = self._alive.pop(key)
        self.now[kind] -= size


class DryRun:
    """A module whose models lose their contents, to be run with shapes alone.

    Args:
        module: a ``HapoModule``; its models are changed in place.
        mixed: as under ``bf16-mixed``.
    """

    def __init__(self, module: Any, mixed: bool) -> None:
        self.module, self.mixed = module, mixed
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self.vocabulary = module.policy.get_output_embeddings().weight.shape[0]
        sizes = [held(module.policy.parameters())]
        with self.fakes:
            for model in filter(None, (module.policy, module.reference)):
                model.to_empty(device="cpu")
                model.tie_weights()
        sizes.append(held(module.policy.parameters()))
        assert sizes[0] == sizes[1], "weights that were tied are not any more"

    def gradient(self, rows: int, prompt: int, response: int) -> Footprint:
        """Of the loss of a micro-batch and its backward pass, beside weights and gradients.

        Args:
            rows: of the micro-batch.
            prompt, response: tokens of each.
        """
        with self.fakes:
            batch = blank_rows(self.module, rows, prompt, response)
            return gradient(self.module, batch, self.mixed, self.vocabulary)

    def optimizer(self) -> tuple[list[Tensor], int]:
        """What the optimiser keeps, and bytes that its step needs besides; with ``foreach``, as on a GPU."""
        trained = trained_parameters(self.module.policy)
        with self.fakes:
            optimizer = self.module.make_optimizer(trained)
            for group in optimizer.param_groups:
                if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                    group["foreach"] = True
            gradients = [torch.empty_like(parameter) for parameter in trained]
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            with Footprint(trained, gradients) as footprint:
                optimizer.step()
        leaves = tree_leaves([dict(each) for each in optimizer.state.values()])
        kept = [each for each in leaves if isinstance(each, Tensor)]
        return kept, footprint.peak.total() - held(kept)

    def decoding(self, engine: HFEngine, sequences: int, prompt: int, response: int) -> tuple[int, Footprint]:
        """Bytes of the cache when so many sequences are at their full length, spare room and all, and what the last
        token needs besides."""
        policy = self.module.policy
        with self.fakes, torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # each is 0
            policy.eval()  # as the engine does; in training there is no cache beside gradient checkpoints
            token = torch.zeros(sequences, 1, dtype=torch.int64)
            with _cast(
                self.mixed
            ):  # in mixed precision keys, which have met the rotary embedding, are wider than values
                first = policy(input_ids=token, past_key_values=_growing_cache(policy), use_cache=True)
            kinds = first.past_key_values.layers[0].keys.dtype, first.past_key_values.layers[0].values.dtype
            cache = full_cache(policy, sequences, prompt, prompt + response - 1, kinds)
            rooms = [room for layer in cache.layers for room in layer._room or (layer.keys, layer.values)]
            bias = _attention_bias(torch.ones(sequences, prompt, dtype=torch.bool), response, first.logits.dtype)
            others = [*policy.buffers(), *rooms]
            with Footprint(policy.parameters(), others, self.vocabulary) as footprint, _cast(self.mixed):
                logits = policy(
                    input_ids=token,
                    attention_mask=bias[..., : prompt + response],
                    position_ids=token,
                    past_key_values=cache,
                    use_cache=True,
                ).logits[:, -1]
                engine._draw(logits, torch.zeros(sequences, dtype=torch.float64))
            policy.train()
        return held(rooms), footprint


def gradient(module: Any, batch: Rows, mixed: bool, vocabulary: int | None = None) -> Footprint:
    """The footprint of a loss and its backward pass, where every weight has a gradient already."""
    trained = trained_parameters(module.policy)
    for each in trained:
        each.grad = torch.zeros_like(each)
    others = [*module.policy.buffers(), *(each.grad for each in trained)]
    footprint = Footprint(module.policy.parameters(), others, vocabulary)
    with footprint, _cast(mixed):
        module.loss(batch).loss.backward()
    return footprint


def blank_rows(module: Any, rows: int, prompt: int, response: int) -> Rows:
    """Rows of the greatest length, with what the module's phase and settings bring along."""
    logprobs = torch.zeros(rows, response)
    phase = module.phase
    engine = getattr(phase.algorithm, "engine", None)
    return Rows(
        text=Text(
            torch.ones(rows, prompt, dtype=torch.int64),
            torch.ones(rows, prompt, dtype=torch.bool),
            torch.ones(rows, response, dtype=torch.int64),
            torch.ones(rows, response, dtype=torch.bool),
        ),
        is_teacher=torch.zeros(rows, dtype=torch.bool),
        advantages=torch.ones(rows),
        token_weights=torch.full((rows, response), 1 / (rows * response)),
        confidence=torch.ones(rows),
        old_logprobs=logprobs.clone() if module.updates_per_batch > 1 else None,
        reference_logprobs=logprobs.clone() if phase.loss.needs_reference else None,
        behaviour_logprobs=None if engine is None or engine.is_trainer else logprobs.clone(),
        step=module.step,
    )


def full_cache(policy: Any, sequences: int, prompt: int, length: int, kinds: tuple[torch.dtype, torch.dtype]) -> Any:
    """The engine's cache, grown as it grows there from prompts of ``prompt`` tokens to ``length``.

    Args:
        policy: gives the shape.
        sequences: in the batch.
        prompt, length: tokens of each.
        kinds: of keys and of values.
    """
    _, heads, size = kv_shape(policy.config)
    cache = _growing_cache(policy)
    for layer in cache.layers:
        count, room = prompt, prompt
        layer.update(*(torch.empty(sequences, heads, prompt, size, dtype=kind) for kind in kinds))
        while count < length:
            added = 1 if count == room else min(room, length) - count
            layer.update(*(torch.empty(sequences, heads, added, size, dtype=kind) for kind in kinds))
            count, room = count + added, layer._room[0].shape[-2]
    return cache


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, each once."""
    return sum({_key(each): each.untyped_storage().nbytes() for each in tensors}.values())


def _cast(mixed: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=mixed)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _without_contents(func: Any, args: Any, kwargs: Any) -> Any:
    """What ``func`` gives, or for tensors without contents what it gives where every mask is true."""
    if not any(isinstance(each, FakeTensor) for each in tree_leaves((args, kwargs))):
        return func(*args, **kwargs)
    if func is aten._local_scalar_dense.default:
        return 1
    if func in (aten.index.Tensor, aten._index_put_impl_.default, aten.index_put.default):
        mask = args[1][0]
        if mask is not None and mask.dtype == torch.bool:
            if func is aten.index.Tensor:
                return args[0].new_empty((mask.numel(), *args[0].shape[mask.ndim :]))
            return args[0] if func is aten._index_put_impl_.default else torch.empty_like(args[0])
    return func(*args, **kwargs)
