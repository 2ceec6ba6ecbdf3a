import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import same_leaves
from flax import struct

from proco_jax.common.checkpoint import Checkpoints


@struct.dataclass
class State:
    """A state as training has them: a tree, a count and a typed key."""

    params: dict
    step: jax.Array
    key: jax.Array


def state(value: float) -> State:
    return State({"w": jnp.full((2, 3), value)}, jnp.int32(value), jax.random.key(int(value)))


def test_what_was_saved_comes_back_bit_for_bit_with_its_key(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(5, state(3.0))
    with Checkpoints(tmp_path) as saved:
        assert saved.latest == 5
        same_leaves(saved.restore(state(0.0)), state(3.0))


def test_the_newest_is_restored_and_the_older_go(tmp_path):
    with Checkpoints(tmp_path, keep=1) as saved:
        for step in (1, 2, 3):
            saved.save(step, state(float(step)))
        assert saved.latest == 3
        same_leaves(saved.restore(state(0.0)), state(3.0))
    kept = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert kept == {"3"}


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state(1.0))
        saved.save(1, state(2.0))
        same_leaves(saved.restore(state(0.0)), state(1.0))


def test_without_a_checkpoint_there_is_none(tmp_path):
    with Checkpoints(tmp_path / "new") as saved:
        assert saved.latest is None
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            saved.restore(state(0.0))


def test_what_a_kill_left_half_written_is_not_taken_for_a_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state(1.0))
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "junk").write_text("half")
    with Checkpoints(tmp_path) as saved:
        assert saved.latest == 1
        same_leaves(saved.restore(state(0.0)), state(1.0))


def test_a_state_of_other_shapes_is_refused(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state(1.0))
        other = State({"v": jnp.zeros(7)}, jnp.int32(0), jax.random.key(0))
        with pytest.raises((ValueError, KeyError)):
            saved.restore(other)


SAVE_ON_TWO_DEVICES = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
from proco_jax.checkpoint import Checkpoints
from proco_jax.devices import shard_seeds
keys = jax.vmap(jax.random.key)(jax.numpy.arange(2))
state = {"key": keys, "w": jax.numpy.arange(6.0).reshape(2, 3)}
with Checkpoints(Path(sys.argv[1])) as saved:
    saved.save(1, shard_seeds(state, 2))
"""


def test_a_run_goes_on_where_there_are_fewer_devices(tmp_path):
    command = [sys.executable, "-c", SAVE_ON_TWO_DEVICES, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    like = jax.eval_shape(lambda: {"key": keys, "w": jnp.zeros((2, 3))})
    with Checkpoints(tmp_path) as saved:
        found = saved.restore(like)
    assert len(found["w"].sharding.device_set) == 1
    np.testing.assert_array_equal(found["w"], np.arange(6.0).reshape(2, 3))
    same_leaves(found["key"], keys)
