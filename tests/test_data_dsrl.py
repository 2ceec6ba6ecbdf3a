import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_server import serving
from data_toys import make_episode, same_episodes

from proco_jax.data.checks import DataError
from proco_jax.data.dsrl import import_dsrl, read_dsrl, task_of_file
from proco_jax.data.episode_ends import correct_ends
from proco_jax.data.minari_store import read_dataset
from proco_jax.envs.tasks import TASKS, get_task

TASK = get_task("SafetyPointGoal1")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with serving() as server:
        yield server


def arrays(episodes, tail=False):
    """The flat arrays of DSRL; with `tail`, the end of the last episode isn't marked."""
    ends = [np.arange(len(e.reward)) == len(e.reward) - 1 for e in episodes]
    flat = {
        "observations": np.concatenate([e.obs[:-1] for e in episodes]),
        "next_observations": np.concatenate([e.obs[1:] for e in episodes]),
        "actions": np.concatenate([e.action for e in episodes]),
        "rewards": np.concatenate([e.reward for e in episodes]),
        "costs": np.concatenate([e.cost for e in episodes]),
        "terminals": np.concatenate(
            [x & e.terminated for x, e in zip(ends, episodes, strict=True)]
        ),
        "timeouts": np.concatenate(
            [x & (not e.terminated) for x, e in zip(ends, episodes, strict=True)]
        ),
    }
    if tail:
        flat["timeouts"][-1] = False
    return flat


def save(path, flat):
    with h5py.File(path, "w") as file:
        for key, value in flat.items():
            file[key] = value
    return path


@pytest.fixture
def episodes():
    return [make_episode(0), make_episode(1, steps=7)._replace(terminated=True), make_episode(2)]


@pytest.fixture
def path(tmp_path, episodes):
    return save(tmp_path / TASK.dsrl_file, arrays(episodes))


def refused(path, flat, match):
    """Asserts that an import is refused and leaves nothing but the source."""
    save(path, flat)
    root = path.parent / "root"
    with pytest.raises(DataError, match=match):
        import_dsrl(str(path), TASK, root)
    kept = [p for p in root.rglob("*") if p.is_file() and not p.name.endswith(".lock")]
    assert kept == []


def test_an_import_is_equal_bit_for_bit_and_done_once(path, episodes, tmp_path):
    lines = []
    root = tmp_path / "root"
    dataset_id = import_dsrl(str(path), TASK, root, lines.append)
    stored = read_dataset(root, dataset_id)
    assert same_episodes(stored.episodes, episodes)
    assert dataset_id.startswith("proco/safety-point-goal1/dsrl-")
    assert stored.details["recipe"]["file"] == TASK.dsrl_file
    assert import_dsrl(str(path), None, root, lines.append) == dataset_id
    assert lines[-1] == f"found dataset {dataset_id}"
    assert path.exists()


def test_a_timeout_is_no_termination(path, episodes):
    assert [e.terminated for e in read_dsrl(path, TASK)] == [False, True, False]
    both = arrays(episodes)
    both["terminals"] = both["terminals"] | both["timeouts"]
    assert [e.terminated for e in read_dsrl(save(path, both), TASK)] == [False, True, False]


def test_steps_after_the_last_end_are_an_episode_too(path, episodes):
    save(path, arrays(episodes, tail=True))
    assert same_episodes(list(read_dsrl(path, TASK)), episodes)


def test_a_changed_file_is_another_dataset(path, episodes, tmp_path):
    first = import_dsrl(str(path), TASK, tmp_path)
    save(path, arrays(episodes[:2]))
    second = import_dsrl(str(path), TASK, tmp_path)
    assert first != second
    with pytest.raises(DataError, match="exists and was not made from"):
        import_dsrl(str(path), TASK, tmp_path, dataset_id=first)


@pytest.mark.parametrize("key", ["costs", "next_observations", "timeouts"])
def test_a_missing_array_is_named(path, episodes, key):
    flat = arrays(episodes)
    del flat[key]
    refused(path, flat, f"missing {key}; a DSRL file has the arrays")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: h5py.SoftLink("/rewards"), "rewards is a link"),
        (lambda file: h5py.ExternalLink("other.hdf5", "/rewards"), "rewards is a link"),
        (lambda file: np.full(31, b"x"), "rewards has the type .*S1, expected real numbers"),
        (lambda file: np.ones(31, complex), "rewards has the type complex128"),
    ],
)
def test_links_and_other_types_are_refused(path, make, message):
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = make(file)
    with pytest.raises(DataError, match=message):
        list(read_dsrl(path, TASK))


def test_arrays_outside_of_the_file_are_refused(path):
    other = path.with_name("secret")
    other.write_bytes(bytes(31 * 4))
    with h5py.File(path, "a") as file:
        del file["rewards"], file["costs"]
        file.create_dataset("rewards", (31,), "f4", external=[(str(other), 0, 31 * 4)])
        layout = h5py.VirtualLayout((31,), "f4")
        layout[:] = h5py.VirtualSource(str(other), "x", (31,))
        file.create_virtual_dataset("costs", layout)
    for key in ("rewards", "costs"):
        with pytest.raises(DataError, match=f"{key} is a group, or an array stored in other files"):
            list(read_dsrl(path, TASK))
        with h5py.File(path, "a") as file:
            del file[key]
            file[key] = np.zeros(31, np.float32)
    assert len(list(read_dsrl(path, TASK))) == 3


def test_more_rows_than_the_file_can_hold_are_refused_before_reading(path):
    with h5py.File(path, "a") as file:
        for key in list(file):
            held = file[key]
            assert isinstance(held, h5py.Dataset)
            shape = (10**12, *held.shape[1:])
            del file[key]
            file.create_dataset(key, shape, "f4", chunks=(1000, *shape[1:]))
    with pytest.raises(DataError, match=r"observations declares 60,000,000,000,000 values, more"):
        list(read_dsrl(path, TASK))


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_flags_other_than_0_and_1_are_refused(path, episodes, value):
    flat = arrays(episodes)
    flat["terminals"] = flat["terminals"].astype(np.float32)
    flat["terminals"][3] = value
    refused(path, flat, "terminals must be 0 or 1")


def test_lengths_that_disagree_are_told(path, episodes):
    flat = arrays(episodes)
    flat["costs"] = flat["costs"][:-3]
    refused(path, flat, "must have the same length above 0, found .*rewards 31, costs 28")


@pytest.mark.parametrize("key", ["observations", "rewards", "costs", "actions"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(path, episodes, key, value):
    flat = arrays(episodes)
    flat[key][14] = value
    if key == "observations":
        flat["next_observations"][13] = value
        flat[key][19:] = 0
        flat["next_observations"][19:] = 0
    refused(path, flat, "episode 1 of 3: .* not finite, the first at index")


def test_an_observation_of_another_task_is_refused(path):
    flat = arrays([make_episode(0, size=72)])
    refused(path, flat, "observations have 72 numbers, expected 60; is this data of another task?")


def test_steps_that_do_not_follow_each_other_are_refused(path, episodes):
    flat = arrays(episodes)
    flat["timeouts"][11] = False
    refused(
        path, flat, "after 1 of its 19 steps, first after step 11, the next observation differs"
    )


def test_resets_stored_as_final_observations_are_imported_for_the_run_to_drop(path, episodes):
    flat = arrays(episodes)
    flat["next_observations"][:-1] = flat["observations"][1:]
    found = list(read_dsrl(save(path, flat), TASK))
    assert [e.obs[-1].tolist() for e in found[:2]] == [e.obs[0].tolist() for e in found[1:]]
    assert [len(e.reward) for e in correct_ends(found, "logs").episodes] == [11, 6, 12]


def test_an_episode_beyond_the_time_limit_is_refused(path):
    task = dataclasses.replace(TASK, episode_steps=11)
    with pytest.raises(DataError, match=r"an episode has 12 steps, but .* ends after 11"):
        list(read_dsrl(path, task))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_told_as_such(path, tmp_path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="is no whole HDF5 file"):
        import_dsrl(str(path), TASK, tmp_path / "root")


def test_a_source_that_is_nothing_is_told(tmp_path, path):
    with pytest.raises(DataError, match=r"neither a file nor a task: .*PointGoal1"):
        import_dsrl("PointGaol1", None, tmp_path)
    with pytest.raises(DataError, match=r"no file .*absent\.hdf5; check the path"):
        import_dsrl(str(tmp_path / "absent.hdf5"), None, tmp_path)
    with pytest.raises(DataError, match="is of the task SafetyPointGoal1, but the run is of"):
        import_dsrl(str(path), get_task("PointGoal2"), tmp_path)
    other = path.rename(path.with_name("logs.hdf5"))
    with pytest.raises(DataError, match=r"logs\.hdf5 does not name its task; give --task=NAME"):
        import_dsrl(str(other), None, tmp_path)


def test_the_name_of_every_dsrl_file_tells_its_task():
    assert all(task_of_file(Path(task.dsrl_file)) == task for task in TASKS.values())


def test_a_download_is_converted_once_and_removed(server, path, episodes, tmp_path):
    server.content = path.read_bytes()
    server.cuts = [1000]
    root = tmp_path / "root"
    lines: list[str] = []
    dataset_id = import_dsrl("PointGoal1", None, root, lines.append, endpoint=server.endpoint)
    assert dataset_id == "proco/safety-point-goal1/dsrl-v0"
    stored = read_dataset(root, dataset_id)
    assert same_episodes(stored.episodes, episodes)
    assert stored.details["recipe"]["file"] == TASK.dsrl_file
    assert list(root.rglob("*.download")) == []
    asked = len(server.asked)
    again = import_dsrl("PointGoal1", TASK, root, lines.append, endpoint=server.endpoint)
    assert again == dataset_id
    assert len(server.asked) == asked


def test_a_download_that_is_no_hdf5_file_is_removed_and_the_rerun_fetches_it_again(
    server, path, episodes, tmp_path
):
    server.content = b"<html>not a dataset</html>"
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"no whole HDF5 file .*fetch it again"):
        import_dsrl("PointGoal1", None, root, print, endpoint=server.endpoint)
    assert [p for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
    server.content = path.read_bytes()
    dataset_id = import_dsrl("PointGoal1", None, root, print, endpoint=server.endpoint)
    assert same_episodes(read_dataset(root, dataset_id).episodes, episodes)


@pytest.mark.slow
def test_the_command_imports_a_file_and_tells_what_is_wrong(path, tmp_path):
    command = [sys.executable, "-m", "proco_jax.import_dsrl", f"--root={tmp_path / 'root'}"]

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=120)

    done = run(f"--source={path}")
    assert done.returncode == 0, done.stderr
    dataset_id = done.stdout.rpartition("minari:")[2].strip()
    assert len(read_dataset(tmp_path / "root", dataset_id).episodes) == 3
    path.write_bytes(path.read_bytes()[:-100])
    broken = run(f"--source={path}")
    assert broken.returncode == 1 and "error: " in broken.stderr
    assert "Traceback" not in broken.stderr
    assert "--source" in run().stderr
