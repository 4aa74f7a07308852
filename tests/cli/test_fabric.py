"""Two processes are one: both entry points, DDP and FSDP, against each other and against a single process."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from support.accounts import must_account_for_its_seconds
from support.builders import write_base
from support.commands import ARGUMENTS, cold_hapo, hapo
from support.forked_runs import forked_runs
from support.once import few_of
from support.ranks import ALL, ALL_OF_FOUR, CASES, FEW, READ_BACK, run
from support.servers import free_port
from support.survival import assert_equal
from transformers import AutoModelForCausalLM

from hapo_lit.analysis import read_metrics
from hapo_lit.policy.loading import load_policy
from hapo_lit.training.metric_names import CLOCKED

pytestmark = pytest.mark.slow


def exact(pairs):
    """Those that compute in float32."""
    return [(case, way) for case, way in pairs if not (case.startswith("mixed") or way.endswith("16"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return str(folder)


def on_processes(count, pairs, base, out):
    """``(case, way)`` -> result on several processes: gloo, one thread each, in an environment as torchrun makes it."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "none"}
    where |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    command = [str(Path(__file__).parents[1] / "support/ranks.py"), str(out), base, *("-".join(pair) for pair in pairs)]
    ranks = [
        forked_runs().start(out, *command, environment=where | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    for done in [rank.wait() for rank in ranks]:
        assert done.returncode == 0, done.stderr[-3000:]
    return lambda case, way: torch.load(out / f"{case}-{way}.pt", weights_only=False)


@pytest.fixture(scope="module")
def two(base, tmp_path_factory, request):
    """Results on two processes."""
    pairs = ALL if request.config.getoption("--all") else FEW[2]
    return on_processes(2, pairs, base, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(base, tmp_path_factory, request):
    """Results on four processes."""
    pairs = ALL_OF_FOUR if request.config.getoption("--all") else FEW[4]
    return on_processes(4, pairs, base, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def one(base):
    """The same on one process, made when first asked for."""
    made = {}

    def result(case, way):
        if (case, way) not in made:
            made[case, way] = run(case, way, base)
        return made[case, way]

    return result


def far(first, second):
    """The largest difference of weights, and of any metric of any step."""
    weights = max(float((first["weights"][name] - weight).abs().max()) for name, weight in second["weights"].items())
    rows = list(zip(first["log"], second["log"], strict=True))
    assert all(set(a) == set(b) for a, b in rows)
    return weights, max(abs(a[name] - b[name]) / max(1, abs(b[name])) for a, b in rows for name in b)


def distance(first, second):
    return float(sum((first[name] - weight).square().sum() for name, weight in second.items())) ** 0.5


def moments(result):
    return {
        (index, name): value for index, state in result["optimizer"]["state"].items() for name, value in state.items()
    }


@pytest.mark.parametrize("case", few_of(CASES, set(CASES) - {"plain", "four", "mixed_taught"}))
def test_the_entry_points_agree_bit_for_bit_on_one_process(one, case):
    trainer, fabric = one(case, "train"), one(case, "fabric")
    assert far(trainer, fabric) == (0.0, 0.0)
    assert str(trainer["run"]) == str(fabric["run"])
    first, second = moments(trainer), moments(fabric)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    steps = trainer["run"]["step"]
    assert len(trainer["log"]) == steps + 1 + steps // 2  # an evaluation before, and one after every second
    assert all(row["update/gradient_norm"] > 0 for row in trainer["log"] if "update/gradient_norm" in row)


@pytest.mark.parametrize(("case", "way"), few_of(*(exact(pairs) for pairs in (ALL, FEW[2]))))
def test_two_processes_are_one_in_float32(one, two, case, way):
    single, double = one(case, "fabric"), two(case, way)
    weights, metrics = far(double, single)
    assert weights < 1e-6
    assert metrics < 5e-6
    assert double["run"]["step"] == int(single["run"]["step"]) > 0
    assert str(double["run"]) == str(single["run"])  # gate and all


@pytest.mark.parametrize(("case", "way"), few_of(*(exact(pairs) for pairs in (ALL_OF_FOUR, FEW[4]))))
def test_four_processes_are_one_in_float32(one, four, case, way):
    weights, metrics = far(four(case, way), one(case, "fabric"))
    assert weights < 1e-6
    assert metrics < 5e-6


@pytest.mark.parametrize(("way", "like"), few_of([("fabric", "train"), ("hsdp", "fsdp")], [("hsdp", "fsdp")]))
def test_in_bfloat16_two_processes_agree_however_they_start_or_share_weights(two, way, like):
    weights, metrics = far(two("mixed", way), two("mixed", like))
    assert weights < 1e-6
    assert metrics < 1e-5


@pytest.mark.parametrize("case", few_of([case for case in CASES if not case.startswith("mixed")], []))
def test_every_case_is_the_same_in_bfloat16_however_weights_are_shared(two, case):
    weights, metrics = far(two(case, "hsdp16"), two(case, "fsdp16"))
    assert weights < 1e-6
    assert metrics < 1e-5


def test_in_bfloat16_shards_are_near_one_process(one, two, four, base):
    """On the same texts, the teachers'.  A process's rows make sums of other shapes, which are rounded otherwise, and
    autocast rounds at other places; Adam makes steps of its full length of what is small."""
    start = policy_of(base)
    alone = one("mixed_taught", "fabric")
    sharded, replicated = two("mixed_taught", "fsdp"), four("mixed_taught", "hsdp")
    for first, second, share in ((replicated, sharded, 0.05), (sharded, alone, 0.2), (replicated, alone, 0.2)):
        assert distance(first["weights"], second["weights"]) < share * distance(second["weights"], start)
        assert far(first, second)[1] < 0.01


def test_no_bfloat16_copy_of_a_sharded_layer_outlives_its_pass(two):
    """Autocast would keep one of every layer until the update is over."""
    for way in ("fsdp", "hsdp"):
        most, left = two("mixed", way)["left_over"]
        assert most > 2 * 32 * 48
        assert left == 0
    assert two("mixed", "fabric")["left_over"][1] > 0


def test_shards_hold_what_one_file_would(two, four):
    """Whatever shares the weights: replica groups write theirs once."""
    for case, way in READ_BACK:
        result = (four if case == "four" else two)(case, way)
        for found in (result["read"], result["whole"]):
            own = {name: value for name, value in found["module"].items() if name.startswith("policy.")}
            assert_equal(own, {f"policy.{name}": value for name, value in result["weights"].items()}, "weights")
            assert_equal(found["optimizer"], result["optimizer"], "optimizer")
            assert any(value.any() for value in own.values())


def test_ranks_had_different_numbers_of_passes_to_make(two):
    """Otherwise nothing above says that they keep in step: of micro-batches of one row, and of held-out batches."""
    rows = two("uneven", "fsdp")["rows"]
    assert len(rows) == 4
    assert any(first != second for first, second in rows)


# -- the commands themselves, with Fabric's and the Trainer's own launcher


@pytest.fixture(scope="module")
def work(base, tmp_path_factory):
    """A folder with a base policy, and a run of four steps on one process."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "base").symlink_to(base)
    done = hapo(folder, "fabric", *ARGUMENTS, "hydra.run.dir=one")
    must_account_for_its_seconds(folder / "one", done.stdout)
    return folder


def timeless(run):
    table = read_metrics(run)
    return table[[column for column in table if not column.startswith(CLOCKED)]]


def policy_of(folder):
    return load_policy(str(folder)).state_dict()


def assert_near(first, second, tolerance=1e-6):
    first, second = policy_of(first), policy_of(second)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) <= tolerance


@pytest.mark.parametrize("start", few_of([hapo, cold_hapo], [hapo]))
def test_a_run_on_two_processes_resumes_on_one_and_back(work, start):
    """Checkpoints are complete whatever wrote them, so a run may switch between `train` and `fabric` and change its
    number of processes."""
    hapo(work, "train", *ARGUMENTS, "trainer.devices=2", "hydra.run.dir=two")
    assert_near(work / "one/policy", work / "two/policy")
    pd.testing.assert_frame_equal(timeless(work / "two"), timeless(work / "one"), atol=1e-5, rtol=0)
    columns = ["step", "prompt", "successes", "trials", "open", "teacher"]
    groups = [pd.read_csv(work / run / "groups.csv").sort_values(columns) for run in ("one", "two")]
    assert groups[0].to_numpy().tolist() == groups[1].to_numpy().tolist()
    done = hapo(work, "fabric", *ARGUMENTS, "resume=two/checkpoints/step-2.ckpt", "hydra.run.dir=back")
    assert "resuming after step 2 of 4" in done.stdout
    assert "written by 2 processes" in done.stdout
    assert_near(work / "one/policy", work / "back/policy")
    done = start(
        work, "fabric", *ARGUMENTS, "fabric.devices=2", "resume=one/checkpoints/step-2.ckpt", "hydra.run.dir=forth"
    )
    assert done.stdout.count("held-out accuracy, sampled, after") == 1  # rank 0 alone speaks
    assert_near(work / "one/policy", work / "forth/policy")


def test_sharded_checkpoints_are_read_by_every_command(work):
    """They are what ``fsdp`` writes on several processes, here before the next step begins; that a run goes on from
    one to the bit, and writes them beside its steps, is in survival/test_shards.py."""
    sharded = [*ARGUMENTS, "fabric.devices=2", "fabric.strategy=fsdp"]
    hapo(work, "fabric", *sharded, "fabric.async_checkpoints=false", "hydra.run.dir=sharded")
    assert_near(work / "one/policy", work / "sharded/policy")
    state = work / "sharded/checkpoints/step-2.ckpt"
    assert {"__0_0.distcp", "__1_0.distcp", "manifest.json", "meta.pt"} <= {path.name for path in state.iterdir()}
    hapo(work, "train", *ARGUMENTS, f"resume={state}", "hydra.run.dir=from-shards")
    assert_near(work / "sharded/policy", work / "from-shards/policy")
    assert (work / "from-shards/checkpoints/step-4.ckpt").is_file()
    hapo(work, "export", "sharded", "exported")
    assert_near(work / "sharded/policy", work / "exported", 0.0)
    exported = AutoModelForCausalLM.from_pretrained(work / "exported")
    assert exported.num_parameters() == load_policy(str(work / "base")).num_parameters()


@pytest.mark.exhaustive
def test_a_run_changes_its_strategy_and_its_number_of_processes(work):
    ways = {
        "shards": ["fabric.devices=2", "fabric.strategy=fsdp"],
        "replicas": ["fabric.devices=2", "fabric.strategy=fsdp", "fabric.replicas=2"],
        "alone": ["fabric.strategy=fsdp"],
        "ddp": ["fabric.devices=2"],
    }
    state = "one/checkpoints/step-2.ckpt"
    for name, way in ways.items():
        hapo(work, "fabric", *ARGUMENTS, *way, f"resume={state}", f"hydra.run.dir=into-{name}")
        assert_near(work / "one/policy", work / f"into-{name}/policy")
        state = f"into-{name}/checkpoints/step-2.ckpt"
        assert (work / f"into-{name}/checkpoints/step-4.ckpt").is_dir() == (name in ("shards", "replicas"))


@pytest.mark.exhaustive
def test_an_adapter_trains_on_two_shards_and_is_merged_into_the_export(work):
    adapter = [*ARGUMENTS, "model.lora.rank=4", "loss.kl_coefficient=0.1", "learning_rate.start=3e-4"]
    hapo(work, "train", *adapter, "hydra.run.dir=adapter")
    hapo(work, "fabric", *adapter, "fabric.devices=2", "fabric.strategy=fsdp", "hydra.run.dir=shards")
    assert_near(work / "adapter/policy", work / "shards/policy")
    before, after = policy_of(work / "base"), policy_of(work / "adapter/policy")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("proj.weight") for name in changed)
    hapo(work, "export", "adapter", "merged", "--checkpoint", "adapter/checkpoints/step-4.ckpt")
    assert_near(work / "merged", work / "adapter/policy", 0.0)


def test_every_process_keeps_its_part_of_a_batch_that_is_not_finite(work):
    """Steps of 1e30 leave no number in the second update."""
    wild = ["fabric.devices=2", "learning_rate.start=1e30", "module.max_skipped=0", "hydra.run.dir=wild"]
    done = hapo(work, "fabric", *ARGUMENTS, *wild, check=False)
    assert done.returncode != 0
    assert "loss or gradient was not finite" in done.stderr
    kept = [torch.load(work / f"wild/not_finite-{rank}.pt", weights_only=False)["experience"] for rank in (0, 1)]
    prompts = torch.cat([experience.group.prompt_ids for experience in kept])
    assert len(prompts.unique()) == 4


def test_an_export_says_what_is_wrong(work):
    for arguments, message in (
        (
            ["one/checkpoints/last.ckpt", "out"],
            "one/checkpoints/last.ckpt is not the folder of a run (no config.yaml): name that, and --checkpoint",
        ),
        (["one", "one"], "one is there already: choose another folder"),
        (["one", "out", "--checkpoint", "x"], "there is no checkpoint 'x' in one/checkpoints; there are steps [2, 4]"),
    ):
        done = hapo(work, "export", *arguments, check=False)
        assert done.returncode == 2
        assert done.stderr.strip() == f"hapo: error: {message}"
