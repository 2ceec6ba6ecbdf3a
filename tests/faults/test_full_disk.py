"""A full disk: the path and the advice, nothing half-written, and the same command resumes."""

import collections
import errno
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from data_toys import ORIGIN, TASK, make_episode, same_episodes, toy_simulation

from proco_jax.common import files
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.files import SPARE_BYTES, check_space, disk_full_explained, write_text
from proco_jax.common.metrics import MetricsWriter
from proco_jax.config.schema import Config, DataConfig
from proco_jax.data.collection import collect
from proco_jax.data.minari_store import list_datasets, read_dataset
from proco_jax.data.minari_writer import write_dataset

Usage = collections.namedtuple("Usage", "total used free")
FULL = OSError(errno.ENOSPC, "No space left on device")


def free_for(patch: pytest.MonkeyPatch, calls: int) -> None:
    """The disk has room for a number of checks, then none."""
    left = iter(range(calls))

    def usage(path: Any) -> Usage:
        free = 10**12 if next(left, None) is not None else 1000
        return Usage(10**12, 10**12 - free, free)

    patch.setattr(shutil, "disk_usage", usage)


def test_space_is_checked_with_a_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SPARE_BYTES + 500
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - free, free))
    check_space(tmp_path / "a" / "b" / "file", 500)
    with pytest.raises(
        OSError, match=r"No space left on device for .*file: .* free space"
    ) as error:
        check_space(tmp_path / "a" / "b" / "file", 501)
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_dataset_is_not_begun_where_an_episode_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    episodes = [make_episode(i) for i in range(3)]
    with monkeypatch.context() as patch:
        free_for(patch, calls)
        with pytest.raises(OSError, match=r"No space left .*logs-v0.*same command again"):
            write_dataset(tmp_path, "toys/logs-v0", episodes, None, ORIGIN)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    write_dataset(tmp_path, "toys/logs-v0", episodes, None, ORIGIN)
    assert same_episodes(read_dataset(tmp_path, "toys/logs-v0").episodes, episodes)


@pytest.mark.parametrize("calls", [0, 3, 8])
def test_a_collection_on_a_full_disk_resumes_to_the_same_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    def config(root: Path) -> Config:
        return Config(task=TASK.name, data=DataConfig(root=str(root), episodes=6))

    whole = collect(config(tmp_path / "whole"), print, simulation=toy_simulation())
    with monkeypatch.context() as patch:
        free_for(patch, calls)
        with pytest.raises(OSError, match=r"No space left .*free space on that disk, then run"):
            collect(config(tmp_path / "full"), print, simulation=toy_simulation())
    assert list_datasets(tmp_path / "full") == []
    lines: list[str] = []
    again = collect(config(tmp_path / "full"), lines.append, simulation=toy_simulation())
    assert again == whole
    assert any("resuming: 3 of 6" in line for line in lines) == (calls == 3)
    left, right = (read_dataset(tmp_path / x, whole).episodes for x in ("whole", "full"))
    assert same_episodes(left, right)


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("file write failed: errno = 28, error message = 'No space left on device'"),
        ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device"),
    ],
)
def test_every_library_s_error_of_a_full_disk_gets_path_and_advice(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(OSError, match=r"while writing .*model; free space"):  # noqa: SIM117
        with disk_full_explained(tmp_path / "model"):
            raise error


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"w": jnp.arange(5.0)}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)

        def full(*args: Any, **more: Any) -> None:
            raise ValueError("Error writing local file: No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(saved._manager, "save", full)
            with pytest.raises(OSError, match=r"while writing .*/2; free space"):
                saved.save(2, state)
    with Checkpoints(tmp_path) as saved:
        found = saved.restore(state)
    assert found is not None and found[0] == 1
    np.testing.assert_array_equal(found[1]["w"], state["w"])


def test_metrics_and_texts_name_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.path.symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"while writing .*metrics\.jsonl; free space"):
            writer.write("cost", 1, {"loss": 0.5})

    def full(*args: Any) -> None:
        raise FULL

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match=r"while writing .*cost\.json; free space"):
        write_text(tmp_path / "cost.json", "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl"]
