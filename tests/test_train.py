import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import same_leaves, toy_context, toy_episode, toy_parts, toy_scale

from proco_jax.common import sharding as devices
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.data.logs import to_dataset
from proco_jax.training import loop as train
from proco_jax.training import sampling as logged

PARTS = toy_parts()
CONFIG = PARTS.config
AGENT = CONFIG.agent


@pytest.fixture(scope="module", autouse=True)
def _reuse_of_keys_unchecked():
    # The checker refuses a scan over keys inside the vmap over seeds; rollouts alone pass it.
    jax.config.update("jax_debug_key_reuse", False)
    yield
    jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="module")
def context():
    return toy_context(PARTS)


@pytest.fixture(scope="module")
def begin(context):
    """A fresh copy of the same two seeds each time; a chunk consumes its states."""
    state = train.make_train_init(PARTS)(context, train.seed_keys(0, 2))
    # On a named device, as what is restored is: jit would compile for each anew.
    state = jax.device_put(state, jax.devices()[0])
    return lambda: jax.tree.map(jnp.copy, state)


@pytest.fixture(scope="module")
def chunk():
    return train.make_train_chunk(PARTS)


@pytest.fixture(scope="module")
def after(context, begin, chunk):
    """States and metrics after one chunk and after three."""
    first, metrics = chunk(context, begin())
    kept = jax.tree.map(jnp.copy, first)
    second, _ = chunk(context, first)
    third, _ = chunk(context, second)
    return kept, third, metrics


@pytest.fixture(scope="module")
def baseline(context, begin):
    """The two seeds without knowledge, after one chunk."""
    alone = context._replace(knowledge=None)
    state = begin().replace(buffer=None)
    return train.make_train_chunk(PARTS)(alone, state)


def one_seed(tree, seed: int):
    """That seed of a state, with its axis."""
    return jax.tree.map(lambda x: jnp.copy(x[seed : seed + 1]), tree)


def test_gathered_transitions_lead_from_a_row_to_the_next(context):
    data = context.data
    found = logged.gather(AGENT, data, context.scale, jnp.array([0, 19, 20]))
    rows = np.asarray(context.scale(data.obs))
    # Episodes have 20 steps and 21 rows.
    np.testing.assert_allclose(found.obs, rows[[0, 19, 21]], atol=1e-6)
    np.testing.assert_allclose(found.next_obs, rows[[1, 20, 22]], atol=1e-6)
    np.testing.assert_array_equal(found.action, data.action[jnp.array([0, 19, 20])])


def test_looking_ahead_stops_at_the_end_of_the_episode():
    episodes = [toy_episode(0), toy_episode(1, terminated=True)]
    data = jax.tree.map(jnp.asarray, to_dataset(episodes))
    scale = toy_scale(data)
    config = dataclasses.replace(AGENT, lookahead=3, discount=0.5)
    found = logged.look_ahead(config, data, scale, jnp.array([0, 18, 20, 39]))
    reward, rows = np.asarray(data.reward), np.asarray(scale(data.obs))
    expected = [
        reward[0] + reward[1] / 2 + reward[2] / 4,
        reward[18] + reward[19] / 2,
        reward[20] + reward[21] / 2 + reward[22] / 4,
        reward[39],
    ]
    np.testing.assert_allclose(found.reward, expected, rtol=1e-5)
    # The first episode ended by time, so its last state has a value; the second truly ended.
    np.testing.assert_allclose(found.discount, [0.125, 0.25, 0.125, 0.0])
    np.testing.assert_allclose(found.obs, rows[[3, 20, 24, 41]], atol=1e-6)


def test_logged_state_is_unsafe_if_it_cost_or_the_network_says_so(context):
    index = jnp.arange(3)
    rows = logged.gather(AGENT, context.data, context.scale, index)
    data = dataclasses.replace(context.data, cost=jnp.zeros(context.data.size).at[0].set(1.0))
    says = jnp.zeros(context.data.size, bool).at[1].set(True)
    known = context._replace(data=data, knowledge=context.knowledge._replace(unsafe=says))
    unsafe, safe = CONFIG.feasibility.unsafe, CONFIG.feasibility.safe
    batch = train._logged_batch(PARTS, known, index, rows)
    # The next state of each transition first, then those of the steps that followed.
    np.testing.assert_array_equal(batch.h[:, 0], [unsafe, unsafe, safe])
    np.testing.assert_array_equal(batch.h[:, 1], [unsafe, safe, safe])
    assert np.all(np.asarray(batch.h)[:, 2:] == safe)
    batch = train._logged_batch(PARTS, known._replace(knowledge=None), index, rows)
    np.testing.assert_array_equal(batch.h[:, 0], [unsafe, safe, safe])


def test_seeds_keep_their_keys_whatever_their_number():
    few, many = train.seed_keys(3, 2), train.seed_keys(0, 6)
    same_leaves(few, many[3:5])


def test_a_world_without_cost_network_calls_nothing_unsafe(context):
    world = train.make_world(PARTS, context.knowledge.model, None)
    assert not np.any(world.unsafe(context.data.obs[:5]))


def test_warmup_fills_the_buffer_and_no_more(begin):
    state = begin()
    np.testing.assert_array_equal(state.buffer.generation, CONFIG.rollouts.warmup)
    lengths = np.asarray(state.buffer.data.length)
    assert (
        lengths[:, : CONFIG.rollouts.warmup].all()
        and not lengths[:, CONFIG.rollouts.warmup :].any()
    )


def test_chunk_counts_its_steps_and_its_regenerations(after):
    first, third, metrics = after
    steps, every = CONFIG.train.chunk, CONFIG.rollouts.interval
    np.testing.assert_array_equal(first.step, steps)
    np.testing.assert_array_equal(third.step, 3 * steps)
    np.testing.assert_array_equal(
        third.buffer.generation, CONFIG.rollouts.warmup + 3 * steps // every
    )
    assert all(np.shape(v) == (2,) and np.all(np.isfinite(v)) for v in metrics.values())
    assert "rollouts/violating_share" in metrics and "agent/policy_loss" in metrics


def test_seeds_learn_apart(after):
    leaves = jax.tree.leaves(after[0].agent.params)
    assert all(not np.array_equal(x[0], x[1]) for x in leaves)


def test_training_step_is_traced_once_over_many_chunks(after, chunk):
    assert chunk._cache_size() == 1


def test_resume_is_bit_exact(tmp_path, after, context, begin, chunk):
    first, third, _ = after
    with Checkpoints(tmp_path / "train") as saved:
        saved.save(CONFIG.train.chunk, first)
    with Checkpoints(tmp_path / "train") as saved:
        state = saved.restore(begin())
    for _ in range(2):
        state, _ = chunk(context, state)
    same_leaves(state, third)


def test_baseline_ignores_imagined_data(baseline):
    state, metrics = baseline
    assert state.buffer is None
    assert not [name for name in metrics if name.startswith("rollouts/")]
    np.testing.assert_array_equal(state.step, CONFIG.train.chunk)


def test_reward_critic_is_the_same_with_and_without_imagined_data(after, baseline):
    ours, theirs = after[0].agent, baseline[0].agent
    same_leaves(ours.params["v"], theirs.params["v"], rtol=1e-4, atol=1e-4)
    for a, b in (
        (ours.params["policy"], theirs.params["policy"]),
        (ours.feasibility.params, theirs.feasibility.params),
    ):
        with pytest.raises(AssertionError):
            same_leaves(a, b, rtol=1e-4, atol=1e-4)


def test_at_the_last_step_reward_critic_and_policy_stand_still(context, begin, chunk):
    state = begin()
    before = jax.tree.map(jnp.copy, state.agent)
    late, _ = chunk(context, state.replace(step=jnp.full_like(state.step, CONFIG.train.steps)))
    same_leaves(late.agent.params, before.params)
    with pytest.raises(AssertionError):
        same_leaves(late.agent.feasibility.params, before.feasibility.params)


@pytest.mark.slow
def test_a_seed_in_a_sweep_equals_it_alone(after, context, begin):
    alone, _ = train.make_train_chunk(PARTS)(context, one_seed(begin(), 1))
    same_leaves(alone.agent.params, one_seed(after[0].agent.params, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_sharded_over_devices_equals_unsharded(tmp_path, begin, after):
    for name, state in (("begin", begin()), ("after", after[0])):
        with Checkpoints(tmp_path / name) as saved:
            saved.save(1, state)
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    code = f"import test_train; test_train.compare_sharded({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4 devices" in done.stdout


def compare_sharded(folder: str) -> None:
    """Run in a process of its own: the two seeds on two of four devices."""
    context = toy_context(PARTS)
    like = jax.eval_shape(train.make_train_init(PARTS), context, train.seed_keys(0, 2))
    states = []
    for name in ("begin", "after"):
        with Checkpoints(Path(folder) / name) as saved:
            states.append(saved.restore(like))
    spread = devices.shard_seeds(states[0], 2)
    used = {d for x in jax.tree.leaves(spread) for d in x.sharding.device_set}
    where = jax.tree.map(lambda x: x.sharding, spread)
    ours, _ = train.make_train_chunk(PARTS)(devices.replicate(context, 2), spread)
    # Else the second chunk is compiled anew.
    assert where == jax.tree.map(lambda x: x.sharding, ours) and len(used) == 2
    same_leaves(ours.agent.params, states[1].agent.params, rtol=1e-4, atol=1e-4)
    compare_rows()
    print(jax.device_count(), "devices")


def compare_rows() -> None:
    """Seeds that four devices cannot share evenly come back as they were."""
    for seeds, mesh, rows in ((5, 3, 6), (3, 3, 3), (8, 4, 8), (9, 3, 9), (1, 1, 1)):
        tree = {"x": jnp.arange(float(seeds)), "key": train.seed_keys(0, seeds)}
        spread = devices.shard_seeds(tree, seeds)
        assert spread["x"].shape == (rows,) and devices._mesh(seeds).size == mesh
        same_leaves(devices.own_seeds(spread, seeds), tree)


def test_on_one_device_seeds_stay_as_they_are():
    placed = devices.shard_seeds({"x": jnp.arange(3.0)}, 3)
    np.testing.assert_array_equal(placed["x"], [0, 1, 2])
    assert devices.own_seeds(placed, 3)["x"] is placed["x"]


def test_metrics_are_means_over_steps():
    found = train._mean({"a": jnp.array([[1.0, 2.0], [3.0, 4.0]])})
    np.testing.assert_array_equal(found["a"], [2.0, 3.0])
