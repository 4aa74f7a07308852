"""What is left of bfloat16 tensors."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class BFloat16Watch(TorchDispatchMode):
    """A context that knows the bfloat16 tensors that came into being inside it, those that autocast keeps too."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.most = 0
        """Bytes of the largest."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.bfloat16:
                storage = tensor.untyped_storage()
                self.most = max(self.most, storage.nbytes())
                self.seen.append(weakref.ref(storage))
        return result

    def alive(self):
        """Bytes of those that are still there; what FSDP2 has freed is there with no bytes."""
        storages = {id(storage): storage for storage in (seen() for seen in self.seen) if storage is not None}
        return sum(storage.nbytes() for storage in storages.values())
