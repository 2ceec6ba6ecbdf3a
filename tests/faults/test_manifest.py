"""Bits that change in storage: data sets, artifacts, checkpoints, policies, archives of arrays."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_toys import ORIGIN, TASK, make_episode, same_episodes

from proco_jax.common.checkpoint import CheckpointError, Checkpoints, load_arrays, save_arrays
from proco_jax.common.files import read_npz
from proco_jax.config import schema
from proco_jax.config.schema import Config, DataConfig
from proco_jax.data import manifest
from proco_jax.data.checks import DataError
from proco_jax.data.logs import load_logs
from proco_jax.data.manifest import check_manifest, write_manifest
from proco_jax.data.minari_store import read_dataset, set_observation_spec
from proco_jax.data.minari_writer import write_dataset
from proco_jax.pipeline.store import META, ArtifactError, artifact
from proco_jax.pipeline.workdir import open_run

ID = "toys/logs-v0"
FILES = ("data/main_data.hdf5", "data/metadata.json", "manifest.json")
DAMAGES = ("flip first", "flip middle", "flip last", "flip random", "cut", "empty", "garbage")


def quiet(line: str) -> None:
    pass


def damage(path: Path, kind: str, seed: int = 0) -> None:
    """Damages a file in place."""
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    if kind.startswith("flip"):
        places = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}
        at = places.get(kind.split()[1], int(rng.integers(len(content))))
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del content[len(content) // 2 :]
    else:
        content[:] = b"" if kind == "empty" else rng.bytes(len(content))
    path.write_bytes(content)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    write_dataset(root, ID, [make_episode(i) for i in range(4)], None, ORIGIN)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "root")
    return tmp_path / "root"


def load(root: Path, verify: str = "sampled", log=quiet):
    data = DataConfig(source=f"minari:{ID}", root=str(root), verify=verify)
    return load_logs(Config(task=TASK.name, data=data), root / "run", log)


@pytest.mark.parametrize("verify", ["sampled", "full"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_dataset_is_refused_in_words(
    root: Path, name: str, kind: str, verify: str
) -> None:
    load(root, verify)
    damage(root / ID / name, kind)
    with pytest.raises(DataError, match=r"damaged") as error:
        load(root, verify)
    text = str(error.value)
    assert str(root / ID / name) in text and "remove" in text and "\n" not in text


@pytest.mark.parametrize("seed", range(40))
def test_one_flipped_bit_anywhere_is_found(root: Path, seed: int) -> None:
    damage(root / ID / FILES[seed % 3], "flip random", seed)
    with pytest.raises(DataError, match="is damaged"):
        check_manifest(root / ID, full=True, log=quiet)


def test_a_sample_of_blocks_finds_what_lies_in_it_and_all_bytes_find_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "BLOCK", 64)
    content = np.random.default_rng(0).bytes(64 * 200 + 5)
    path = tmp_path / "set" / "file"
    path.parent.mkdir()
    path.write_bytes(content)
    write_manifest(path.parent)

    def found(block: int, full: bool, seed: int) -> bool:
        spoiled = bytearray(content)
        spoiled[min(block * 64 + 63, len(content) - 1)] ^= 16
        path.write_bytes(spoiled)
        try:
            check_manifest(path.parent, full, quiet, np.random.default_rng(seed))
        except DataError as error:
            assert f"its bytes from {block * 64:,} on differ" in str(error)
            return True
        return False

    assert all(found(block, True, 0) for block in (0, 77, 199, 200))
    # The first and the last block belong to every sample; another one to 14 of 199.
    assert all(found(block, False, seed) for block in (0, 200) for seed in range(5))
    hits = sum(found(77, False, seed) for seed in range(300))
    assert 8 <= hits <= 40


def test_a_dataset_of_others_has_no_manifest_and_that_is_said(root: Path) -> None:
    (root / ID / "manifest.json").unlink()
    lines: list[str] = []
    assert len(load(root, log=lines.append).episodes) == 3
    assert any("has no manifest.json" in line and "cannot be detected" in line for line in lines)


def test_a_missing_file_is_named(root: Path) -> None:
    (root / ID / "data" / "main_data.hdf5").unlink()
    with pytest.raises(DataError, match=r"main_data\.hdf5 is missing; restore"):
        load(root)


def test_a_new_description_of_observations_keeps_the_manifest_true(root: Path) -> None:
    set_observation_spec(root, ID, TASK.spec)
    check_manifest(root / ID, full=True, log=quiet)
    assert same_episodes(read_dataset(root, ID).episodes, [make_episode(i) for i in range(4)])


def test_how_much_is_verified_may_change_within_a_run(tmp_path: Path) -> None:
    with open_run(Config(), tmp_path / "run", log=quiet):
        pass
    with open_run(Config(data=DataConfig(verify="full")), tmp_path / "run", log=quiet):
        pass
    assert not schema.differences(
        Config(data=DataConfig(verify="full")), schema.to_json(Config(data=DataConfig()))
    )


# Artifacts of the store.


@pytest.mark.parametrize("name", ["arrays/data", META])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_artifact_is_refused_in_words(tmp_path: Path, name: str, kind: str) -> None:
    def make(folder: Path) -> None:
        (folder / "arrays").mkdir(exist_ok=True)
        (folder / "arrays" / "data").write_bytes(bytes(range(200)))

    inputs = {"seed": 0, "rate": 0.125}
    folder = artifact(tmp_path, "cost", inputs, make, quiet)
    damage(folder / name, kind)
    with pytest.raises(ArtifactError, match="remove that folder, then the same command") as error:
        artifact(tmp_path, "cost", inputs, make, quiet)
    assert str(folder) in str(error.value)
    shutil.rmtree(folder)
    assert artifact(tmp_path, "cost", inputs, make, quiet) == folder


@pytest.mark.parametrize(("old", "new"), [("0.125", "0.126"), ('"cost"', '"cosu"')])
def test_inputs_that_are_not_those_of_the_folder_are_refused(
    tmp_path: Path, old: str, new: str
) -> None:
    def make(folder: Path) -> None:
        (folder / "data").write_text("x")

    folder = artifact(tmp_path, "cost", {"rate": 0.125}, make, quiet)
    path = folder / META
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ArtifactError, match=r"artifact\.json is damaged"):
        artifact(tmp_path, "cost", {"rate": 0.125}, make, quiet)


# Checkpoints.


def state(value: float) -> dict[str, jax.Array]:
    return {"w": jnp.arange(300.0) + value, "step": jnp.int32(value)}


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_falls_back_on_the_one_before(tmp_path: Path, kind: str) -> None:
    with Checkpoints(tmp_path / "saved") as saved:
        saved.save(1, state(1))
        saved.save(2, state(2))
    shutil.copytree(tmp_path / "saved", tmp_path / "whole")
    for path in files_of(tmp_path / "saved" / "2"):
        shutil.rmtree(tmp_path / "saved")
        shutil.copytree(tmp_path / "whole", tmp_path / "saved")
        damage(path, kind)
        with Checkpoints(tmp_path / "saved") as saved:
            found = saved.restore(state(0))
        assert found is not None and found[0] == 1, path
        np.testing.assert_array_equal(found[1]["w"], state(1)["w"])


def test_without_a_whole_checkpoint_the_folder_to_remove_is_named(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "train") as saved:
        saved.save(1, state(1))
    damage(max(files_of(tmp_path / "train" / "1"), key=lambda p: p.stat().st_size), "flip middle")
    with (
        Checkpoints(tmp_path / "train") as saved,
        pytest.raises(CheckpointError, match=r"train can be read .*remove that folder") as error,
    ):
        saved.restore(state(0))
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_digests_of_removed_checkpoints_are_removed(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as saved:
        for step in range(1, 5):
            saved.save(step, state(step))
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["sha256-3.json", "sha256-4.json"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_loaded_arrays_must_be_finite(tmp_path: Path, value: float) -> None:
    save_arrays(tmp_path / "a" / "model", {"w": jnp.array([1.0, value]), "n": jnp.arange(2)})
    with pytest.raises(CheckpointError, match=r"1 arrays, first \['w'\], .* not finite; remove"):
        load_arrays(tmp_path / "a" / "model", {"w": jnp.zeros(2), "n": jnp.arange(2)})


# Archives of arrays, e.g. labels.npz.


@pytest.mark.parametrize("kind", [*(k for k in DAMAGES if "flip" not in k), "flip middle"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_archive_of_arrays_is_refused_in_words(tmp_path: Path, save, kind: str) -> None:
    path = tmp_path / "labels.npz"
    save(path, obs=np.arange(500.0), unsafe=np.zeros(50))
    assert read_npz(path, ["obs"], "")["obs"][-1] == 499
    damage(path, kind)
    with pytest.raises(ValueError, match=r"labels\.npz is damaged .*; remove it") as error:
        read_npz(path, ["obs", "unsafe"], "remove it")
    assert "\n" not in str(error.value)


def test_an_archive_without_an_array_is_refused_and_pickles_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, obs=np.arange(5.0))
    with pytest.raises(ValueError, match=r"is damaged .*unsafe"):
        read_npz(path, ["obs", "unsafe"], "remove it")

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    np.savez(path, obs=np.array([Hostile()], dtype=object))
    with pytest.raises(ValueError, match="is damaged"):
        read_npz(path, ["obs"], "remove it")
    assert not (tmp_path / "executed").exists()
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["labels.npz"]'
