"""Counting the bytes of tensors while code runs, on real tensors or on fake ones that have shapes and no contents."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CASTS, LOGITS, ACTIVATIONS = "casts of the weights", "logits", "activations"
"""Kinds of tensors."""

aten = torch.ops.aten


class MemoryTracker(TorchDispatchMode):
    """A context that counts the bytes of storages that come into being inside it, for as long as they live.

    Args:
        weights: parameters: their storages are there already, and casts of them are a kind of their own.
        others: further tensors that are there already.
        vocabulary: size of a tensor's last dimension by which logits are known; None = they count as activations.
        wider: logits count as this part of their size.
    """

    def __init__(
        self, weights: Iterable[Tensor], others: Iterable[Tensor] = (), vocabulary: int | None = None, wider: int = 1
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = list(weights)
        self._weights = {_key(weight) for weight in weights}
        self._existing = [*weights, *others]  # held, so that their keys are not used again
        self._existing_keys = {_key(tensor) for tensor in self._existing}
        self._vocabulary, self._wider = vocabulary, wider
        self._alive: dict[int, tuple[str, int]] = {}
        self.now: Counter[str] = Counter()
        """Bytes alive, by kind."""
        self.peak: Counter[str] = Counter()
        """Bytes alive, by kind, at the moment when their sum was largest."""
        self.peak_logits = 0
        """Bytes of logits alive at once, at most."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for several times in every operation
        result = _run(func, args, kwargs or {})
        for tensor in tree_leaves(result):
            if (
                isinstance(tensor, Tensor)
                and _key(tensor) not in self._existing_keys
                and _key(tensor) not in self._alive
            ):
                self._add(tensor, func, args)
        return result

    def _add(self, tensor: Tensor, func: OpOverload, args: Sequence[Any]) -> None:
        kind = ACTIVATIONS
        if func is aten._to_copy.default and _key(args[0]) in self._weights:
            kind = CASTS
        elif self._vocabulary is not None and tensor.ndim > 1 and tensor.shape[-1] == self._vocabulary:
            kind = LOGITS
        storage = tensor.untyped_storage()
        key, size = _key(tensor), storage.nbytes() // (self._wider if kind == LOGITS else 1)
        self._alive[key] = (kind, size)
        weakref.finalize(storage, self._remove, key)
        self.now[kind] += size
        self.peak_logits = max(self.peak_logits, self.now[LOGITS])
        if self.now.total() > self.peak.total():
            self.peak = self.now.copy()

    def _remove(self, key: int) -> None:
        kind, size = self._alive.pop(key)
        self.now[kind] -= size


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, each storage once."""
    return sum({_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _run(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of ``func``; for fake tensors, whose values are not known, that of masks which are true everywhere."""
    if not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
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
