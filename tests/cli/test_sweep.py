"""Sweeps: the searches that ship, and what becomes of jobs under each launcher.  Runs are of two steps."""

from __future__ import annotations

import copy
import re
from functools import cache
from importlib.util import find_spec
from signal import SIGTERM

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.builders import write_base
from support.commands import SMALL, hapo
from support.configs import CONF, PRESETS, composed
from support.forked_runs import forked_runs
from support.once import few_of

from hapo_lit import cli
from hapo_lit.analysis import find_runs
from hapo_lit.cli.sweeps import LONGEST, folder_name, jobs_that_compose

SEARCHES = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
TWO_STEPS = ["model.path=./base", *(setting for setting in SMALL if not setting.startswith("steps=")), "steps=2"]
BAD = "gate.threshold=0.01"
"""With four rollouts such a gate could never open."""


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}: pip install 'hapo_lit[sweep]'")


def hydra_of(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True).hydra


# -- what ships


def test_nothing_else_that_ships_begins_a_sweep():
    """What :mod:`support.single_run` goes by."""
    assert {path.parent.name for path in CONF.rglob("*.yaml") if re.search(r"^ +mode: ", path.read_text(), re.M)} == {
        "sweep"
    }


def test_the_searches_are_those_that_the_readme_names():
    assert SEARCHES == ["gate_optuna", "gate_prior", "gate_rule", "gate_threshold", "group_size", "method", "seeds"]


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_varies_keys_that_exist_between_choices_that_compose(search):
    if search == "gate_optuna" and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("needs pip install 'hapo_lit[sweep]'")
    settings = hydra_of(f"sweep={search}")
    assert settings.mode.name == "MULTIRUN"
    varied = OverridesParser.create().parse_overrides(
        [f"{key}={value}" for key, value in settings.sweeper.params.items()]
    )
    assert varied
    ends = []
    for override in varied:
        assert override.is_sweep_override()
        value = override.value()
        choices = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [value.start, value.end]
        group = CONF / override.key_or_group
        assert not group.is_dir() or all((group / f"{choice}.yaml").is_file() for choice in choices)
        ends.append([f"{override.key_or_group}={choices[end]}" for end in (0, -1)])
    for settings in zip(*ends, strict=True):
        composed("train", f"sweep={search}", *settings)


def test_a_search_adds_nothing_to_the_run_itself():
    assert composed("train", "sweep=gate_prior") == composed("train")


def test_the_search_over_methods_has_all_presets():
    methods = [preset for preset in PRESETS if preset != "smoke"]  # which is a size and no method
    assert hydra_of("sweep=method").sweeper.params.experiment.split(",") == methods


def test_a_sweep_names_the_jobs_that_are_the_same_run(capsys):
    """At G = 4 and γ = .2 both priors mean that no rollout may succeed; another seed makes another run."""

    def said(*overrides):
        config = compose("train", overrides=["hydra.mode=MULTIRUN"], return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=print, config=config)
        (jobs,) = sweeper.split_arguments(OverridesParser.create().parse_overrides(list(overrides)), None)
        with jobs_that_compose(str):
            sweeper.validate_batch_is_legal(jobs)
        return capsys.readouterr().out.splitlines()

    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert said("steps=9", "gate.prior_alpha=0.5,1", "seed=0,1") == [
            "hapo: these jobs are the same run (their gates open iff S = 0 of n = 4): "
            f"job {seed} (gate.prior_alpha=0.5 seed={seed}), job {2 + seed} (gate.prior_alpha=1 seed={seed})"
            for seed in (0, 1)
        ]
        (again,) = said("experiment=hapo,hapo")
        assert again.endswith("these jobs are the same run: job 0 (experiment=hapo), job 1 (experiment=hapo)")
        assert said("gate.prior_beta=2,9") == []


@cache
def preset_with(*parts):
    """The preset with other parts, whose values may be set: to compose it anew would take most of the time."""
    return composed("train", "experiment=hapo", *parts)


@pytest.mark.parametrize("search", ["gate_prior", "gate_rule", "gate_threshold", "group_size"])
def test_no_gate_of_a_search_is_refused(search):
    """All combinations of a search open and close; none would fail when its job starts."""
    from itertools import product

    params = hydra_of(f"sweep={search}").sweeper.params
    every = [[f"{key}={value}" for value in values.split(",")] for key, values in params.items()]
    for settings in product(*every):
        parts = [setting for setting in settings if (CONF / setting.split("=")[0]).is_dir()]
        config = copy.deepcopy(preset_with(*parts))
        for key, value in (setting.split("=") for setting in settings):
            if not (CONF / key).is_dir():
                OmegaConf.update(config, key, float(value) if "." in value else int(value))
        instantiate(config.gate, _convert_="all").check(config.group_size)


@needs("hydra_plugins.hydra_submitit_launcher")
def test_the_launcher_for_slurm_names_real_settings():
    launcher = hydra_of("hydra/launcher=slurm").launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.name, launcher.gpus_per_node, launcher.max_num_timeout) == ("hapo", 1, 0)
    with pytest.raises(ConfigCompositionException):
        hydra_of("hydra/launcher=slurm", "hydra.launcher.partitoin=gpu")


# -- folders


def test_a_folder_is_named_by_what_varies():
    assert folder_name(0, "") == "0"
    assert folder_name(3, "gate.threshold=0.4,seed=1") == "3_gate.threshold=0.4,seed=1"
    assert folder_name(1, "model.path=a/b,x='*'") == "1_model.path=a_b,x=___"
    assert folder_name(1, "gate.threshold=0.48687842887683735") == "1_gate.threshold=0.4868"


def test_a_long_name_is_cut_and_still_its_own():
    first, second = (folder_name(1, "data.path=" + "a" * 300 + end) for end in "xy")
    assert len(first) == len(second) == LONGEST + 2
    assert first != second


# -- jobs


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a random base policy."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_base(folder / "base")
    return folder


def states_and_notes(sweep):
    """What a report says of every run, in its tables and on its page (tests/analysis/test_report.py)."""
    runs = find_runs(sweep)
    return [run.state for run in runs], [run.note for run in runs]


def finished(sweep):
    return sorted(path.parent.name for path in sweep.glob("*/summary.json"))


@pytest.mark.slow
def test_a_job_that_fails_stops_no_other_and_is_listed_at_the_end(work):
    settings = [*TWO_STEPS, "gate.threshold=0.01,0.02,0.2", "seed=1", "hydra.sweep.dir=fails"]
    done = hapo(work, "train", *settings, "-m", check=False)
    assert done.returncode == 1
    assert finished(work / "fails") == ["2_gate.threshold=0.2"]
    failed = ["0_gate.threshold=0.01", "1_gate.threshold=0.02"]
    errors = sorted((work / "fails").glob("*/error.txt"))
    assert [path.parent.name for path in errors] == failed
    assert errors[0].read_text().startswith("gate.threshold=0.01 with 4 rollouts per group could never open")
    end = done.stderr.split("hapo: 2 of the sweep's jobs failed:\n")[1].strip().splitlines()
    assert [line.split(": gate.threshold=0.0")[0].strip() for line in end] == [f"fails/{name}" for name in failed]
    assert "Traceback" not in done.stderr
    with open(work / "fails/2_gate.threshold=0.2/config.yaml") as file:
        config = OmegaConf.load(file)
    assert (config.seed, config.gate.threshold) == (1, 0.2)
    states, notes = states_and_notes(work / "fails")
    assert states == ["failed", "failed", "finished"]
    assert all("could never open" in note for note in notes[:2])
    again = hapo(work, "train", *TWO_STEPS, "gate.threshold=0.01", "seed=0", "hydra.sweep.dir=fails", "-m", check=False)
    assert again.stderr.count("could never open") == 2  # said at once and at the end; the earlier ones are not


@pytest.mark.slow
def test_jobs_that_cannot_be_composed_are_named_and_the_others_run(work):
    settings = [*TWO_STEPS, "gate=beta,failure", "gate.threshold=0.3", "hydra.sweep.dir=mixed"]
    done = hapo(work, "train", *settings, "-m", check=False)
    assert done.returncode == 1
    assert finished(work / "mixed") == ["0_gate=beta"]
    line = "job gate=failure: there is no key 'gate.threshold'"
    assert done.stderr.count(line) == 2  # at once and at the end
    assert "hapo: 1 of the sweep's jobs failed:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_jobs_of_one_process_are_what_they_would_be_alone(work):
    """Nothing leaks from a job into the next one: not its folder, threads, random state or files."""
    hapo(work, "train", *TWO_STEPS, "threads=2,1", "seed=3", "hydra.sweep.dir=together", "-m")
    hapo(work, "train", *TWO_STEPS, "threads=1", "seed=3", "hydra.run.dir=alone")
    ours, alone = (work / "together/1_threads=1/policy/model.safetensors", work / "alone/policy/model.safetensors")
    assert ours.read_bytes() == alone.read_bytes()
    assert len(list((work / "together").iterdir())) == 3  # two jobs and multirun.yaml


@pytest.mark.slow
@pytest.mark.exhaustive
@needs("hydra_plugins.hydra_joblib_launcher")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_joblib_runs_jobs_in_processes(work, backend):
    """Joblib's default, loky, imports everything in each of its processes; the other forks them."""
    where = ["hydra/launcher=joblib", f"hydra.launcher.backend={backend}", "hydra.launcher.n_jobs=2"]
    done = hapo(
        work, "train", *where, f"hydra.sweep.dir={backend}", *TWO_STEPS, "gate.threshold=0.2,0.01", "-m", check=False
    )
    assert done.returncode == 1, done.stderr
    assert finished(work / backend) == ["0_gate.threshold=0.2"]
    assert f"  {backend}/1_gate.threshold=0.01: gate.threshold=0.01 with 4 rollouts" in done.stderr


@pytest.mark.slow
@pytest.mark.exhaustive
@needs("hydra_plugins.hydra_submitit_launcher")
def test_submitit_runs_a_job(work):
    done = hapo(work, "train", "hydra/launcher=submitit_local", "hydra.sweep.dir=submitit", *TWO_STEPS, "-m")
    assert finished(work / "submitit") == ["0"]
    assert done.returncode == 0


@pytest.mark.slow
@needs("hydra_plugins.hydra_optuna_sweeper")
def test_optuna_keeps_a_study_that_goes_on(work):
    import optuna

    common = [*TWO_STEPS, "sweep=gate_optuna", "hydra.sweep.dir=study"]
    hapo(work, "train", *common, "hydra.sweeper.n_trials=2")
    study = optuna.load_study("gate", f"sqlite:///{work}/study/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert set(study.trials[0].params) == {"gate.threshold", "gate.prior_beta", "gate.memory.discount"}
    assert len(finished(work / "study")) == 2
    # one trial of which the value cannot be had: the study knows it as failed
    done = hapo(work, "train", *common, BAD, "gate.memory.discount=0", "hydra.sweeper.n_trials=1", check=False)
    assert done.returncode == 1
    assert "could never open" in done.stderr.split("jobs failed:")[1]
    study = optuna.load_study("gate", f"sqlite:///{work}/study/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2 + ["FAIL"]


@pytest.mark.slow
@needs("hydra_plugins.hydra_optuna_sweeper")
@pytest.mark.parametrize("launcher", few_of(["basic", "joblib"], ["basic"]))
def test_a_trial_below_the_median_is_pruned(work, launcher):
    """An earlier trial had solved everything by step 2, which no random policy does."""
    import optuna
    from optuna.distributions import UniformDistribution

    folder = work / f"pruned_{launcher}"
    folder.mkdir()
    where = f"sqlite:///{folder}/study.db"
    study = optuna.create_study(study_name="gate", storage=where, direction="maximize")
    earlier = {"gate.threshold": UniformDistribution(0.2, 0.7)}
    better = optuna.trial.create_trial(
        params={"gate.threshold": 0.4}, distributions=earlier, value=0.9, intermediate_values={2: 1.0}
    )
    study.add_trial(better)
    common = ["model.path=./base", *SMALL, "sweep=gate_optuna", f"hydra.sweep.dir={folder.name}"]
    common += [f"hydra/launcher={launcher}", "callbacks.pruner.pruner.n_startup_trials=1"]
    done = hapo(work, "train", *common, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    assert "Traceback" not in done.stderr
    study = optuna.load_study("gate", where)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert [trial.intermediate_values for trial in study.trials[1:]] == [{2: 0.0}] * 2
    assert finished(folder) == []
    states, notes = states_and_notes(folder)
    assert states == ["pruned"] * 2
    assert all(note.startswith("pruned after step 2 of 4: heldout/sampled was 0.000") for note in notes)
    # with no more than that to go by the pruner lets trials run to their end
    common[-1] = "callbacks.pruner.pruner.n_startup_trials=9"
    hapo(work, "train", *common, "hydra.sweeper.n_trials=1")
    assert optuna.load_study("gate", where).trials[-1].state.name == "COMPLETE"


@needs("optuna")
def test_a_pruner_without_a_study_is_refused(says, base):
    pruner = "{_target_: hapo_lit.training.pruning.Prune, pruner: {_target_: optuna.pruners.MedianPruner}}"
    said = says("train", f"model.path={base}", *SMALL, f"+callbacks.pruner={pruner}", "hydra.run.dir=alone_pruned")
    assert "a pruner needs a study in tables: use sweep=gate_optuna" in said


@pytest.mark.slow
def test_a_signal_stops_the_sweep_and_it_resumes_where_it_was(work):
    stopped = ["hydra.sweep.dir=stopped", "callbacks.checkpointer.keep=2"]
    settings = [*TWO_STEPS[:-1], "steps=12", "save_every=3", "seed=0,1", *stopped, "-m"]
    for setting in ("callbacks.checkpointer.keep=-1", "eval_every=2", "save_every=2"):
        settings.remove(setting)
    seen = "stopped/0_*/checkpoints/step-*.ckpt"
    done = forked_runs().run(work, "train", *settings, signal=SIGTERM, seen=seen)
    assert done.returncode == 0  # as for a run: a scheduler asked
    assert "to resume" in done.stdout
    assert finished(work / "stopped") == []
    done = hapo(work, "train", *settings, "resume=auto")
    assert "resuming after step" in done.stdout
    assert finished(work / "stopped") == ["0_seed=0", "1_seed=1"]


def test_a_mistake_in_a_sweep_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for settings, message in (
        (["gate=bta,beta", "-m"], "there is no gate=bta; did you mean 'beta'?"),
        (["sweep=gate_prio"], "there is no sweep=gate_prio; did you mean 'gate_prior'?"),
        (["sweep=seeds", "gate.treshold=0.3"], "there is no key 'gate.treshold'; did you mean 'threshold'?"),
        (["gate=never,failure", "gate.threshold=0.3", "-m"], "there is no key 'gate.threshold'"),
        (["seed=0,1", "hydra/launcher=gone", "-m"], "there is no launcher or sweeper 'gone' here"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", *settings])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert message in lines[0]
