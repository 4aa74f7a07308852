"""Whether a policy's weights are still those that somebody has taken over."""

from __future__ import annotations

import torch
import torch.distributed as dist

from hapo_lit.policy.sharding import local


@torch.no_grad()
def weights_fingerprint(policy: torch.nn.Module) -> tuple[float, ...]:
    """Three numbers for each parameter: torch's count of its changes in place, the exclusive or of its bits, its sum.

    The contents are looked at since the count does not see changes through ``.data``, as of a callback that swaps
    averaged weights in.  Every weight is read, which takes a part of the time of a copy.  A sharded parameter counts
    with this process's part, so that ranks have different fingerprints.
    """
    parameters = list(policy.parameters())
    changes = [0 if parameter.is_inference() else parameter._version for parameter in parameters]
    held = [part.detach() for part in map(local, parameters) if part.numel()]
    bits = [torch.hash_tensor(part).view(torch.int64) for part in held]
    sums = [part.sum(dtype=torch.float32) for part in held]
    return (*changes, *(torch.stack(bits).tolist() + torch.stack(sums).tolist() if held else ()))


def on_any_rank(claim: bool, device: torch.device) -> bool:
    """Whether a claim holds on any process.  Collective; it returns once every process has called it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return claim
    found = torch.tensor(int(claim), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)
