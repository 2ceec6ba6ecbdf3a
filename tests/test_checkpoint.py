import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import same_leaves
from flax import struct

from proco_jax.common.checkpoint import CheckpointError, Checkpoints, load_arrays, save_arrays


@struct.dataclass
class State:
    """A state as in training: a tree, a count and a typed key."""

    params: dict
    step: jax.Array
    key: jax.Array


def state(value: float) -> State:
    return State({"w": jnp.full((2, 3), value)}, jnp.int32(value), jax.random.key(int(value)))


def damage(folder: Path) -> None:
    """Overwrites every file of a checkpoint."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")


def restored(saved: Checkpoints, like: State | None = None) -> tuple[int, State]:
    found = saved.restore(state(0.0) if like is None else like)
    assert found is not None
    return found


def test_a_saved_state_is_restored_bit_for_bit_with_its_key(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(5, state(3.0))
    with Checkpoints(tmp_path) as saved:
        assert saved.latest == 5
        step, found = restored(saved)
    assert step == 5
    same_leaves(found, state(3.0))


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_is_restored_and_older_ones_are_removed(tmp_path, keep):
    with Checkpoints(tmp_path, keep=keep) as saved:
        for step in (1, 2, 3):
            saved.save(step, state(float(step)))
        assert saved.latest == 3
        same_leaves(restored(saved)[1], state(3.0))
    kept = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert kept == {str(step) for step in range(4 - keep, 4)}


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state(1.0))
        saved.save(1, state(2.0))
        same_leaves(restored(saved)[1], state(1.0))


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    with Checkpoints(tmp_path / "new") as saved:
        assert saved.latest is None
        assert saved.restore(state(0.0)) is None


def test_an_unfinished_save_is_not_taken_for_a_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state(1.0))
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "junk").write_text("half")
    with Checkpoints(tmp_path) as saved:
        assert saved.latest == 1
        same_leaves(restored(saved)[1], state(1.0))


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state(1.0))
        saved.save(2, state(2.0))
    damage(tmp_path / "2")
    with Checkpoints(tmp_path) as saved:
        step, found = restored(saved)
    assert step == 1
    same_leaves(found, state(1.0))


def test_if_every_checkpoint_is_damaged_the_folder_to_remove_is_named(tmp_path):
    with Checkpoints(tmp_path / "train") as saved:
        saved.save(1, state(1.0))
    damage(tmp_path / "train" / "1")
    with (
        Checkpoints(tmp_path / "train") as saved,
        pytest.raises(CheckpointError, match=r"train can be read .*remove that folder"),
    ):
        saved.restore(state(0.0))


def test_a_state_of_other_shapes_is_rejected(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state(1.0))
        other = State({"v": jnp.zeros(7)}, jnp.int32(0), jax.random.key(0))
        with pytest.raises(CheckpointError):
            saved.restore(other)


def test_arrays_are_loaded_as_they_were_saved(tmp_path):
    save_arrays(tmp_path / "model", state(4.0))
    same_leaves(load_arrays(tmp_path / "model", state(0.0)), state(4.0))
    with pytest.raises(CheckpointError, match="empty holds no checkpoint"):
        load_arrays(tmp_path / "empty", state(0.0))


SAVE_ON_TWO_DEVICES = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.sharding import shard_members
keys = jax.vmap(jax.random.key)(jax.numpy.arange(2))
state = {"key": keys, "w": jax.numpy.arange(6.0).reshape(2, 3)}
with Checkpoints(Path(sys.argv[1])) as saved:
    saved.save(1, shard_members(state, 2))
"""


def test_a_run_resumes_on_fewer_devices(tmp_path):
    command = [sys.executable, "-c", SAVE_ON_TWO_DEVICES, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    like = jax.eval_shape(lambda: {"key": keys, "w": jnp.zeros((2, 3))})
    with Checkpoints(tmp_path) as saved:
        restored_state = saved.restore(like)
    assert restored_state is not None
    found = restored_state[1]
    assert len(found["w"].sharding.device_set) == 1
    np.testing.assert_array_equal(found["w"], np.arange(6.0).reshape(2, 3))
    same_leaves(found["key"], keys)
