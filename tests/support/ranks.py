"""Runs of both entry points on one process or, under torchrun, on several: ``python ranks.py OUT BASE CASE-WAY ...``.

Not a test file: ``test_fabric.py`` starts it once for each number of processes, since a start costs seconds, and
calls :func:`run` itself for one process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning import Callback
from support.bfloat16_watch import BFloat16Watch

from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.setup import build
from hapo_lit.policy.sharding import full_state_dict
from hapo_lit.training.fabric_loop import FabricTrainerAdapter, train
from hapo_lit.training.fabric_setup import open_fabric, set_up
from hapo_lit.training.metric_names import CLOCKED
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import trained_parameters, unwrapped
from hapo_lit.training.run_state import capture
from hapo_lit.training.shards import ShardWriter, load_shards, load_whole

SMALL = [
    "steps=4",
    "eval_every=2",
    "data.source.train_size=16",
    "data.source.heldout_size=3",
    "+data.heldout_batch=1",
    *(f"data.source.levels.{level}.{field}" for level in (0, 1) for field in ("digits=1", "operation=+")),
    "seed=3",
    "prompts_per_step=6",
    "max_response_tokens=16",
    "callbacks=bare",
    "~evaluators.greedy",
]
GENTLE = ["learning_rate.start=3e-4"]
"""An adapter begins at zero, and Adam makes full steps of its first, tiny gradients and of their rounding."""
UPDATES = ["module.micro_batch_size=3", "module.updates_per_batch=2", "loss.kl_coefficient=0.05"]
FOR_FOUR = ["steps=2", "prompts_per_step=8", "data.source.heldout_size=5"]
"""Which four processes can share."""
PAPER = ["experiment=hapo_paper", "group_size=4", "gate.threshold=0.6"]
RECOMPUTED = ["model.gradient_checkpointing=true", "module.padding_free=true"]
CASES = {
    "plain": [],
    "updates_and_reference": UPDATES,
    "adapter": ["model.lora.rank=4", "loss.kl_coefficient=0.05", *GENTLE],
    "recomputed": [*PAPER, *RECOMPUTED, "weighting=sequence_mean", "module.micro_batch_tokens=90"],
    "uneven": ["module.micro_batch_size=1", "module.minibatches=4", "module.balance_tokens=false"],
    "mixed": ["module.updates_per_batch=2", "module.micro_batch_size=7"],
    "four": [*UPDATES, *FOR_FOUR],
    "mixed_taught": ["experiment=sft", "module.micro_batch_size=2", *FOR_FOUR],
}
WAYS = {"train": ("auto", 1), "fabric": ("auto", 1), **dict.fromkeys(("fsdp", "fsdp16"), ("fsdp", 1))}
WAYS |= dict.fromkeys(("hsdp", "hsdp16"), ("fsdp", 2))
"""Name -> strategy and replica groups; the first is the Trainer's.  With 16, or where the case is, it is mixed."""
ALL = [(case, way) for case in CASES for way in WAYS if not (case.startswith("mixed") and way.endswith("16"))]
ALL_OF_FOUR = [(case, way) for case, way in ALL if set(FOR_FOUR) <= set(CASES[case])]
FEW = {
    2: [
        *((case, "fsdp") for case in CASES if case not in ("plain", "four")),
        *(("uneven", way) for way in ("train", "fabric")),
        *(("mixed", way) for way in ("fabric", "hsdp")),
    ],
    4: [("four", "hsdp"), ("mixed_taught", "hsdp")],
}
"""Processes -> what runs on them unless ``--all`` asks for all: sharding everywhere, and what may differ without it."""
READ_BACK = [("adapter", "fsdp"), ("mixed", "hsdp"), ("four", "hsdp")]
"""Whose sharded checkpoint is looked at."""


class Recorder(Callback):
    """Keeps what would be logged."""

    def __init__(self):
        self.logged, self.rows, self.left_over = [], [], []
        self._bfloat16 = BFloat16Watch()

    def watch(self, module):
        """Count the rows that each rank has to run."""

        def count(experience):
            own = module.phase.loss.contributes(experience.rows()).sum()
            self.rows.append(module.ranks.gather(own[None]).tolist())

        module.before_update_hooks.append(count)

    def watch_first_update(self, module):
        """Count the bytes in bfloat16 that are there when the weights are about to change."""

        def begin(experience):
            if module.step == 0:
                self._bfloat16.__enter__()

        def end(optimizer, args, kwargs):
            if not self.left_over:
                self._bfloat16.__exit__(None, None, None)
                self.left_over = [self._bfloat16.most, self._bfloat16.alive()]

        module.before_update_hooks.append(begin)
        unwrapped(module.optimizer).register_step_pre_hook(end)

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.logged.append(dict(pl_module.metrics))

    def on_validation_end(self, trainer, pl_module):
        self.logged.append(dict(pl_module.heldout))


def run(case: str, way: str, base: str, shards: Path | None = None) -> dict[str, object]:
    """Weights, optimiser, counts and the metrics of every step, by a command's own code.

    Args:
        case, way: what is run, and how.
        base: the folder of its base policy.
        shards: a folder for a sharded checkpoint, whose contents are added.
    """
    precision = "bf16-mixed" if case.startswith("mixed") or way.endswith("16") else "32-true"
    world = int(os.environ.get("WORLD_SIZE", 1))
    alone = [f"trainer.devices={world}", f"trainer.precision={precision}", "trainer.logger=false"]
    trainers = [*alone, "trainer.callbacks=null", "+trainer.enable_progress_bar=false"] if way == "train" else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        command = "train" if way == "train" else "fabric"
        strategy, replicas = WAYS[way]
        settings = [f"model.path={base}", "paths.run=unused", *SMALL, *CASES[case], *trainers]
        settings += [] if way == "train" else [f"fabric.strategy={strategy}"]
        config = compose(command, overrides=settings)
    recorder = Recorder()
    if way == "train":
        data, module, trainer = build(config, "data", "module", "trainer")
        trainer.callbacks.append(recorder)
        recorder.watch(module)
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.fit(module, datamodule=data)
    else:
        layout = {"replicas": replicas, "reshard_after_forward": replicas == 1}
        fabric = open_fabric("cpu", world, 1, strategy, precision, sharded_checkpoints=False, **layout)
        fabric.launch()
        data, module = build(config, "data", "module")
        data.rank, data.world_size = fabric.global_rank, fabric.world_size
        data.setup()
        recorder.watch(module)
        trainer = FabricTrainerAdapter(fabric, [], [recorder])
        wrapped = set_up(fabric, module, data)
        if precision == "bf16-mixed":
            recorder.watch_first_update(module)
        train(trainer, wrapped, data, config.steps, config.eval_every)
    result = {
        "weights": full_state_dict(module.policy.state_dict(), keep=True),
        "optimizer": full_state_dict(module.optimizer_state(), keep=True),
        "run": module.run_state(),
        "rows": recorder.rows,
        "log": [_timeless(metrics) for metrics in recorder.logged],
        "left_over": recorder.left_over,
    }
    if shards is not None:
        result |= _through_shards(module, shards)
    return result


def _through_shards(module: HapoModule, folder: Path) -> dict[str, object]:
    """What a sharded checkpoint holds, put together on rank 0, and what the module holds that has read it."""
    writer, optimizer = ShardWriter(module), unwrapped(module.optimizer)
    writer.write(folder, capture(module, module.data, {}, weights=False), lambda: None)
    for parameter in module.parameters():
        parameter.data.zero_()  # while it is written
    optimizer.state.clear()
    writer.wait()
    load_shards(module, optimizer, trained_parameters(module.policy), folder)
    read = {"module": full_state_dict(module.state_dict(), keep=True)}
    read["optimizer"] = full_state_dict(module.optimizer_state(), keep=True)
    return {"read": read, "whole": load_whole(folder) if module.ranks.rank == 0 else None}


def _timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(CLOCKED)}


def main(out: str, base: str, *chosen: str) -> None:
    """The chosen cases, each written ``case-way``; rank 0 writes the results."""
    torch.set_num_threads(1)
    for name in chosen:
        case, way = name.split("-")
        result = run(case, way, base, Path(out) / f"{name}.ckpt" if (case, way) in READ_BACK else None)
        if int(os.environ["RANK"]) == 0:
            torch.save(result, Path(out) / f"{name}.pt")
    print(json.dumps({"done": True}))


if __name__ == "__main__":
    main(*sys.argv[1:])
