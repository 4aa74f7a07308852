"""What checkpoints cost: their share of a run's time at the default cadence, and one checkpoint of three models.

    python benchmarks/checkpoints.py            # the default experiment as a whole, and models up to 100 million
    python benchmarks/checkpoints.py --steps 200 --largest 5

The models are untrained Qwen2 in float32 with both moments of AdamW.  ``gather`` copies the run state, ``write``
puts it into a file, ``sync`` waits for the disk and gives the file its name; training stands still meanwhile.
``check`` reads all bytes, from the page cache as they have just been written; ``load`` puts them into a new module and
optimiser.  In shards (FSDP2 on one process here) training stands still for the ``copy`` alone, and goes on until all is
``written``, synced and read again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import hapo_lit.cli
from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.session import isolated_job
from hapo_lit.cli.setup import build
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.checkpoint_format import damage, load
from hapo_lit.training.fabric_setup import open_fabric, set_up
from hapo_lit.training.interfaces import RunModule, RunTrainer
from hapo_lit.training.optimizer import unwrapped
from hapo_lit.training.run_state import capture, restore
from hapo_lit.training.shards import ShardWriter

MODELS = {  # millions of parameters -> width, layers, width between
    0.1: (64, 2, 176),
    5: (256, 6, 704),
    100: (768, 12, 2560),
}


class Timed(Checkpointer):
    """Remembers how long each checkpoint took, from the question to the file in its place."""

    seconds: list[float] = []  # noqa: RUF012  of all instances, as ``hapo train`` makes one of its own

    def _save(self, trainer: RunTrainer, module: RunModule, better: bool) -> None:
        started = time.perf_counter()
        super()._save(trainer, module, better)
        self.seconds.append(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--largest", type=float, default=100, help="leave larger models out, in millions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, checkpoints in {tempfile.gettempdir()}")
    print(
        f"{'parameters':>12}  {'MB':>8}  {'gather':>8}  {'write':>8}  {'sync':>8}  {'check':>8}  {'load':>8}   seconds"
    )
    for size, shape in MODELS.items():
        if size <= options.largest:
            with tempfile.TemporaryDirectory() as folder:
                one_checkpoint(shape, CheckpointFolder(folder))
    print(f"in shards\n{'parameters':>12}  {'copy':>8}  {'written':>8}   seconds")
    for size, shape in MODELS.items():
        if size <= options.largest:
            with tempfile.TemporaryDirectory() as folder, isolated_job():
                one_in_shards(shape, CheckpointFolder(folder))
    with tempfile.TemporaryDirectory() as folder:
        whole_run(options.steps, folder)


def made(shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """A datamodule and a module of this size."""
    width, layers, between = shape
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": between}
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        settings = [f"model.policy.sizes.{name}={value}" for name, value in sizes.items()]
        config = compose("fabric", ["model=tiny_new", "paths.run=unused", *settings])
    data, module = build(config, "data", "module")
    data.setup()
    return data, module


def with_moments(module: Any) -> None:
    """Make one step of its optimiser."""
    for parameter in module.policy.parameters():
        parameter.grad = torch.randn_like(parameter)
    unwrapped(module.optimizer).step()
    module.optimizer.zero_grad(set_to_none=True)


def one_in_shards(shape: tuple[int, int, int], folder: CheckpointFolder) -> None:
    """Print what a sharded checkpoint of a model takes."""
    fabric = open_fabric("cpu", 1, 1, "fsdp", "32-true")
    fabric.launch()
    data, module = made(shape)
    set_up(fabric, module, data)
    with_moments(module)
    writer = ShardWriter(module)
    times = [time.perf_counter()]
    state = capture(module, data, {}, weights=False)
    writer.write(folder.draft(1), state, lambda: folder.publish(1))
    times.append(time.perf_counter())
    writer.wait()
    times.append(time.perf_counter())
    count = sum(parameter.numel() for parameter in module.policy.parameters())
    figures = "  ".join(f"{after - before:8.3f}" for before, after in pairwise(times))
    print(f"{count:12,}  {figures}", flush=True)


def one_checkpoint(shape: tuple[int, int, int], folder: CheckpointFolder) -> None:
    """Print what a checkpoint of a model takes."""
    data, module = made(shape)
    module.optimizer = module.configure_optimizers()
    with_moments(module)

    times = [time.perf_counter()]
    state = capture(module, data, {})
    times.append(time.perf_counter())
    torch.save(state, folder.draft(1))
    times.append(time.perf_counter())
    path = folder.publish(1)
    times.append(time.perf_counter())

    count = sum(parameter.numel() for parameter in module.policy.parameters())
    del state, module
    data, module = made(shape)
    times.append(time.perf_counter())
    assert damage(path) is None
    times.append(time.perf_counter())
    restore(load(path), module, data)
    module.configure_optimizers()
    times.append(time.perf_counter())

    gather, write, sync, _, check, put = (after - before for before, after in pairwise(times))
    figures = "  ".join(f"{seconds:8.3f}" for seconds in (gather, write, sync, check, put))
    print(f"{count:12,}  {path.stat().st_size / 1e6:8.1f}  {figures}", flush=True)


def whole_run(steps: int, folder: str) -> None:
    """Print what the checkpoints of a run of the default experiment take of its time."""
    GlobalHydra.instance().clear()
    settings = [f"steps={steps}", f"hydra.run.dir={folder}/run", "callbacks.checkpointer._target_=__main__.Timed"]
    hapo_lit.cli.main(["pretrain"])
    GlobalHydra.instance().clear()
    started = time.perf_counter()
    with redirect_stdout(StringIO()):
        hapo_lit.cli.main(["train", *settings])
    wall, saving = time.perf_counter() - started, Timed.seconds
    size = (Path(folder) / "run/checkpoints/last.ckpt").stat().st_size
    print(f"a run of {steps} steps: {wall:.1f} s, {len(saving)} checkpoints of {size / 1e6:.1f} MB: ", end="")
    print(f"{sum(saving):.2f} s, {100 * sum(saving) / wall:.2f} % (limit 5 %)")
    print(f"the slowest took {1e3 * max(saving):.0f} ms; load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
