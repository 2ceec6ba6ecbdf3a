import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_toys import STEPS, ToyEnv, same_episodes, toy_act, toy_simulation

from proco_jax.config.schema import CollectConfig, Config, DataConfig, EvalConfig
from proco_jax.data import partial
from proco_jax.data.checks import DataError
from proco_jax.data.collection import collect, episode_seeds, make_recipe, recipe_id, slug
from proco_jax.data.minari_store import list_datasets, read_dataset
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.tasks import get_task

TASK = get_task("SafetyCarButton1")


class Killed(BaseException):
    """Stands for a signal in the middle of a step."""


def config_for(root, **data) -> Config:
    return Config(
        task="SafetyPointGoal1", data=DataConfig(**{"root": str(root), "episodes": 7, **data})
    )


def kill_after(steps):
    """A callback that raises at the given step of the worlds."""
    left = [steps]

    def on_step():
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return on_step


def files(root):
    return [p for p in root.rglob("*") if p.is_file()]


def test_the_default_id_reads_well_and_whatever_differs_shows():
    def named(**changes):
        return recipe_id(make_recipe(TASK, DataConfig(**changes)))

    assert named() == "proco/safety-car-button1/controller-v0"
    assert named(episodes=50, seed=3) == "proco/safety-car-button1/controller-n50-s3-v0"
    careful = named(collect=CollectConfig(gains=(2.0, 3.0)))
    assert careful.startswith("proco/safety-car-button1/controller-mix")
    assert careful != named(collect=CollectConfig(gains=(2.0,)))
    # What doesn't change the content doesn't change the id.
    assert named(regime="full", holdout_share=0.5, root="/elsewhere") == named()
    assert slug("SafetyHalfCheetahVelocity") == "safety-half-cheetah-velocity"


def test_collections_share_no_seed_with_each_other_or_with_evaluation():
    seeds = [set(episode_seeds(make_recipe(TASK, DataConfig(seed=s)))) for s in range(3)]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == 750
    assert min(set.union(*seeds)) > EvalConfig().seed + 1_000_000
    last = episode_seeds(make_recipe(TASK, DataConfig(seed=21_373, episodes=100_000)))
    assert last[-1] < 2**31
    for bad in (DataConfig(episodes=0), DataConfig(episodes=100_001), DataConfig(seed=-1)):
        with pytest.raises(DataError, match=r"found .* expected"):
            make_recipe(TASK, bad)


def test_the_dataset_holds_the_episodes_of_the_recipe(tmp_path):
    config = config_for(tmp_path)
    stored = read_dataset(tmp_path, collect(config, print, simulation=toy_simulation()))
    seeds = episode_seeds(make_recipe(get_task(config.task), config.data))
    assert same_episodes(stored.episodes, run_episodes(ToyEnv(1), toy_act, seeds))
    assert stored.details["versions"] == {"toy": "1"}
    assert stored.details["recipe"]["episodes"] == 7


def test_the_number_of_worlds_changes_nothing(tmp_path):
    results = []
    for worlds in (1, 2, 7):
        root = tmp_path / str(worlds)
        dataset_id = collect(config_for(root), simulation=toy_simulation(worlds))
        results.append(read_dataset(root, dataset_id).episodes)
    assert same_episodes(results[0], results[1])
    assert same_episodes(results[0], results[2])


def test_progress_counts_every_step_once_and_no_idle_world(tmp_path, monkeypatch):
    shown: list[int] = []

    @contextlib.contextmanager
    def counting(label, total, log, done=0):
        shown.extend([-total, done])
        yield shown.append

    monkeypatch.setattr("proco_jax.data.collection.progress", counting)
    with pytest.raises(Killed):
        collect(config_for(tmp_path), simulation=toy_simulation(3, kill_after(STEPS)))
    shown.clear()
    # Four episodes are left for three worlds, so two of them idle at the end.
    collect(config_for(tmp_path), simulation=toy_simulation(3))
    assert shown[:2] == [-7 * STEPS, 3 * STEPS]
    # Each of them counts once more, at the step after its last.
    assert 0 <= sum(shown) <= 2 and min(shown[2:]) == 1


def test_a_finished_collection_is_found(tmp_path):
    lines: list[str] = []
    dataset_id = collect(config_for(tmp_path), simulation=toy_simulation())
    simulation = toy_simulation(on_step=kill_after(0))
    assert collect(config_for(tmp_path), lines.append, simulation=simulation) == dataset_id
    assert lines == [f"found dataset {dataset_id} under {tmp_path}"]


@pytest.mark.parametrize("steps", [0, 1, STEPS, STEPS + 3, 2 * STEPS + 1])
def test_an_interrupted_collection_continues_to_the_same_end(tmp_path, steps):
    whole = read_dataset(
        tmp_path / "whole", collect(config_for(tmp_path / "whole"), simulation=toy_simulation())
    )
    root = tmp_path / "cut"
    with pytest.raises(Killed):
        collect(config_for(root), simulation=toy_simulation(2, kill_after(steps)))
    assert list_datasets(root) == []
    finished = 2 * (steps // STEPS)
    assert sum(p.suffix == ".npz" for p in files(root)) == finished
    lines: list[str] = []
    dataset_id = collect(config_for(root), lines.append, simulation=toy_simulation(3))
    assert same_episodes(read_dataset(root, dataset_id).episodes, whole.episodes)
    assert any(f"resuming: {finished} of 7" in line for line in lines) == (finished > 0)
    assert not any(p.suffix == ".npz" for p in files(root))


def test_the_worlds_are_closed_when_something_goes_wrong(tmp_path):
    made: list[ToyEnv] = []
    simulation, on_step = toy_simulation(2), kill_after(3)

    def make_env(worlds):
        made.append(ToyEnv(worlds, on_step))
        return made[-1]

    with pytest.raises(Killed):
        collect(config_for(tmp_path), simulation=simulation._replace(make_env=make_env))
    assert made[0].closed


def test_what_was_begun_with_other_versions_is_not_mixed_in(tmp_path):
    with pytest.raises(Killed):
        collect(config_for(tmp_path), simulation=toy_simulation(2, kill_after(STEPS)))
    lines: list[str] = []
    newer = toy_simulation()._replace(versions={"toy": "2"})
    dataset_id = collect(config_for(tmp_path), lines.append, simulation=newer)
    assert (
        "the unfinished collection was begun with other settings or versions; starting again"
        in lines
    )
    assert read_dataset(tmp_path, dataset_id).details["versions"] == {"toy": "2"}


def test_another_collection_under_the_same_id_is_refused(tmp_path):
    collect(config_for(tmp_path), dataset_id="mine/logs-v0", simulation=toy_simulation())
    with pytest.raises(DataError, match=r"has another recipe .*seed: found 0, expected 1"):
        collect(
            config_for(tmp_path, seed=1), dataset_id="mine/logs-v0", simulation=toy_simulation()
        )


def test_a_damaged_episode_is_removed_and_recorded_again(tmp_path, monkeypatch):
    save = partial.save_episode

    def save_and_spoil(folder, index, episode):
        save(folder, index, episode)
        if index == 4:
            path = partial.episode_path(folder, index)
            path.write_bytes(path.read_bytes()[:100])

    monkeypatch.setattr("proco_jax.data.collection.save_episode", save_and_spoil)
    with pytest.raises(ValueError, match=r"is damaged .* run the same command again"):
        collect(config_for(tmp_path), simulation=toy_simulation())
    assert list_datasets(tmp_path) == []
    monkeypatch.undo()
    dataset_id = collect(config_for(tmp_path), simulation=toy_simulation())
    assert len(read_dataset(tmp_path, dataset_id).episodes) == 7


def test_a_task_without_a_controller_is_told(tmp_path):
    config = dataclasses.replace(config_for(tmp_path), task="SafetyAntVelocity")
    with pytest.raises(ValueError, match="no lidar controller"):
        collect(config)
    with pytest.raises(ValueError, match="no task 'PointGaol1'; did you mean 'SafetyPointGoal1'"):
        collect(dataclasses.replace(config, task="PointGaol1"))


def run_collect(root: Path, *flags: str) -> list[str]:
    """The command that collects nine real episodes, at most four at once with one worker."""
    return [
        *(sys.executable, "-m", "proco_jax.collect", "--task=PointCircle1", "--episodes=9"),
        *(f"--root={root}", "--backend=official", *flags),
    ]


@pytest.mark.slow
def test_a_real_collection_killed_twice_equals_one_that_was_not(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    dataset_id = "proco/safety-point-circle1/controller-n9-v0"
    subprocess.run(run_collect(whole, "--workers=2"), check=True, timeout=300)
    for wanted in (1, 5):
        process = subprocess.Popen(run_collect(cut, "--workers=1"))
        deadline = time.monotonic() + 300
        while len(list(cut.rglob("episode_*.npz"))) < wanted and time.monotonic() < deadline:
            assert process.poll() is None, "the collection ended before it could be killed"
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert list_datasets(cut) == []
    subprocess.run(run_collect(cut, "--workers=1"), check=True, timeout=300)
    left, right = (read_dataset(root, dataset_id) for root in (whole, cut))
    assert same_episodes(left.episodes, right.episodes)
    assert len(left.episodes) == 9 and np.ptp(left.episodes[0].obs) > 0


@pytest.mark.slow
def test_wrong_flags_are_told_before_any_work(tmp_path):
    def says(*flags: str) -> str:
        process = subprocess.run(
            [sys.executable, "-m", "proco_jax.collect", f"--root={tmp_path}", *flags],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert process.returncode != 0
        return process.stderr

    assert "--task" in says()
    assert "did you mean 'SafetyPointGoal1'" in says("--task=PointGaol1")
    assert "--speed: expected 2 numbers, found 3" in says("--task=PointGoal1", "--speed=1,2,3")
    assert "expected each item to be a number from 0 to 1" in says(
        "--task=PointGoal1", "--speed=1,2"
    )
    assert "low is at most its high" in says("--task=PointGoal1", "--noise=0.2,0.1")
    assert "malformed dataset id" in says("--task=PointGoal1", "--dataset_id=a b")
    assert files(tmp_path) == []
