import dataclasses
import json

import h5py
import numpy as np
import pytest
from data_toys import ORIGIN, STEPS, TASK, make_episode, same_episodes

from proco_jax.data.checks import DataError
from proco_jax.data.description import describe
from proco_jax.data.minari_store import (
    check_dataset_id,
    list_datasets,
    read_dataset,
    set_observation_spec,
)
from proco_jax.data.minari_writer import write_dataset
from proco_jax.observation import Field, ObservationSpec

ID = "toys/logs-v0"
OWN = ObservationSpec((Field("everything", 60, "flat", "1", "All of it."),))


@pytest.fixture
def episodes():
    return [
        make_episode(0),
        make_episode(1, steps=5)._replace(terminated=True),
        make_episode(2, cost=3.0),
    ]


@pytest.fixture
def root(tmp_path, episodes):
    write_dataset(tmp_path, ID, episodes, [7, 8, 9], ORIGIN)
    return tmp_path


def edit(root, change):
    """Lets `change` edit the HDF5 file of the dataset."""
    with h5py.File(root / ID / "data" / "main_data.hdf5", "a") as file:
        change(file)


def edit_metadata(root, **changes):
    path = root / ID / "data" / "metadata.json"
    kept = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def test_what_is_written_is_read_bit_for_bit(root, episodes):
    stored = read_dataset(root, ID)
    assert same_episodes(stored.episodes, episodes)
    assert stored.details["recipe"] == {"toy": 1}
    assert describe(stored, "SafetyPointGoal1") == TASK.spec
    assert list_datasets(root) == [ID]


def test_minari_itself_reads_the_dataset(root, episodes, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    import minari

    assert list(minari.list_local_datasets()) == [ID]
    dataset = minari.load_dataset(ID)
    assert dataset.total_steps == 2 * STEPS + 5
    episode = dataset[2]
    # Minari keeps the info of the reset, so the cost is one longer than the rewards.
    np.testing.assert_array_equal(episode.infos["cost"], [0, *episodes[2].cost])
    assert episode.truncations[-1] and not dataset[1].truncations[-1]
    assert dataset.env_spec is not None and dataset.env_spec.id == TASK.env_id
    assert [m["seed"] for m in dataset.storage.get_episode_metadata(range(3))] == [7, 8, 9]


def test_a_dataset_that_fails_half_way_leaves_nothing(tmp_path, episodes):
    def broken():
        yield episodes[0]
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        write_dataset(tmp_path, ID, broken(), None, ORIGIN)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    write_dataset(tmp_path, ID, episodes, None, ORIGIN)
    assert same_episodes(read_dataset(tmp_path, ID).episodes, episodes)


def test_a_dataset_is_never_overwritten(root, episodes):
    with pytest.raises(DataError, match="exists already; remove it or choose another"):
        write_dataset(root, ID, episodes, None, ORIGIN)


def test_no_such_dataset_lists_those_there_are(root):
    with pytest.raises(DataError, match=r"no Minari dataset 'toys/x-v0' .*found: toys/logs-v0"):
        read_dataset(root, "toys/x-v0")


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminations"])
def test_a_missing_key_is_named(root, key):
    edit(root, lambda file: file["episode_1"].pop(key))
    with pytest.raises(DataError, match=f"episode 1 of 3: a key is missing: .*{key}"):
        read_dataset(root, ID)


def test_a_missing_episode_is_named(root):
    edit(root, lambda file: file.pop("episode_2"))
    with pytest.raises(DataError, match="episode 2 of 3: a key is missing"):
        read_dataset(root, ID)


def test_no_cost_says_what_there_is(root):
    edit(root, lambda file: file["episode_0/infos"].move("cost", "speed"))
    with pytest.raises(DataError, match=r"expected infos\['cost'\].*found the infos speed"):
        read_dataset(root, ID)


def test_a_value_that_is_not_finite_is_refused(root):
    def spoil(file):
        file["episode_2/rewards"][4] = np.nan

    edit(root, spoil)
    with pytest.raises(DataError, match=r"episode 2 of 3: rewards: 1 of 12 values .*index \(4,\)"):
        read_dataset(root, ID)


def test_lengths_that_disagree_are_refused(root):
    edit(root, lambda file: file["episode_0/actions"].resize((STEPS - 1, 2)))
    with pytest.raises(DataError, match="lengths disagree: rewards 12, but actions 11"):
        read_dataset(root, ID)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_told_as_such(root, share):
    path = root / ID / "data" / "main_data.hdf5"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        DataError, match=r"damaged or truncated .*make, import or download it again"
    ):
        read_dataset(root, ID)


def test_damaged_metadata_are_told_as_such(root):
    (root / ID / "data" / "metadata.json").write_text('{"total')
    with pytest.raises(DataError, match=r"metadata .* is damaged"):
        read_dataset(root, ID)


def test_a_malformed_id_is_refused():
    check_dataset_id("proco/safety-car-button1/controller-v0")
    for bad in ("no version", "proco/logs", "a b-v0"):
        with pytest.raises(DataError, match="malformed dataset id"):
            check_dataset_id(bad)


def test_a_dataset_of_another_task_is_refused(root):
    with pytest.raises(DataError, match="is of the task SafetyPointGoal1, but the run is of Saf"):
        describe(read_dataset(root, ID), "SafetyPointGoal2")


def test_without_a_description_the_task_of_the_environment_id_counts(root):
    edit_metadata(root, proco=None)
    assert describe(read_dataset(root, ID), "PointGoal1") == TASK.spec
    with pytest.raises(DataError, match="is of the task SafetyPointGoal1"):
        describe(read_dataset(root, ID), "PointPush1")


def test_without_any_origin_the_size_must_fit(root):
    edit_metadata(root, proco=None, env_spec=None)
    assert describe(read_dataset(root, ID), "PointGoal1") == TASK.spec
    with pytest.raises(DataError, match="have 60 numbers, but the task SafetyCarGoal1 has 72"):
        describe(read_dataset(root, ID), "CarGoal1")


def test_nothing_that_says_what_is_observed_tells_how_to_supply_it(root):
    edit_metadata(root, proco=None, env_spec=None)
    with pytest.raises(DataError, match=r"'Crane' is none of the known .*set_observation_spec"):
        describe(read_dataset(root, ID), "Crane")
    set_observation_spec(root, ID, OWN)
    assert describe(read_dataset(root, ID), "Crane") == OWN


def test_a_description_of_another_size_is_refused(root):
    spec = dataclasses.replace(OWN, fields=(dataclasses.replace(OWN.fields[0], size=59),))
    set_observation_spec(root, ID, spec)
    with pytest.raises(DataError, match="have 60 numbers, but its stored description has 59"):
        describe(read_dataset(root, ID), "SafetyPointGoal1")


def test_an_observation_of_parts_is_refused(root):
    def spoil(file):
        del file["episode_0/observations"]
        file["episode_0/observations/image"] = np.zeros((STEPS + 1, 60))

    edit(root, spoil)
    space = {"type": "Dict", "subspaces": {}}
    box = json.loads(
        json.loads((root / ID / "data/metadata.json").read_text())["observation_space"]
    )
    space["subspaces"] = {"image": box}
    edit_metadata(root, observation_space=json.dumps(space))
    with pytest.raises(DataError, match="observations are a dict of parts, expected one flat"):
        read_dataset(root, ID)
