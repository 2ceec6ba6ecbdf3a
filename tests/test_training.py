import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import (
    ACTIONS,
    FLAT,
    FLAT_TASK,
    drawn,
    same_leaves,
    tiny_config,
    toy_context,
    toy_dataset,
    toy_keys,
    toy_program,
)
from several_devices import run_on_devices

from proco_jax.augmentation import buffer, rollouts
from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.common import sharding
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.config.schema import ALGORITHMS
from proco_jax.models import cost, dynamics, dynamics_targets
from proco_jax.models.normalizer import fit_normalizer
from proco_jax.training import loop
from proco_jax.training.sampling import draw_transitions

pytestmark = pytest.mark.usefixtures("unchecked_keys")

CONFIG = tiny_config()
PROGRAM = toy_program("proco", "proco")
TRAINING = loop.make_training(PROGRAM)


@pytest.fixture(scope="module")
def context():
    return toy_context()


@pytest.fixture(scope="module")
def hyper():
    return loop.make_hyper(PROGRAM, 2)


@pytest.fixture(scope="module")
def begin(context, hyper):
    """A fresh copy of the same two members each time; a chunk consumes its states."""
    # On a named device, like restored states: otherwise jit would compile for each.
    state = jax.device_put(TRAINING.init(context, hyper, toy_keys()), jax.devices()[0])
    state = TRAINING.warm_up(context, hyper, state)
    return lambda: jax.tree.map(jnp.copy, state)


@pytest.fixture(scope="module")
def chunk():
    return TRAINING.chunk


@pytest.fixture(scope="module")
def after(context, hyper, begin, chunk):
    """States and metrics after one chunk, and states after three."""
    first, metrics = chunk(context, hyper, begin())
    kept = jax.tree.map(jnp.copy, first)
    second, _ = chunk(context, hyper, first)
    third, _ = chunk(context, hyper, second)
    return kept, third, metrics


@pytest.fixture(scope="module")
def alone(context):
    """A function that trains a single member for one chunk."""
    chunk = TRAINING.chunk

    def train(hyper: loop.Hyper, state: loop.TrainState) -> loop.TrainState:
        return chunk(context, hyper, state)[0]

    return train


@pytest.fixture(scope="module")
def baseline(context, begin):
    """The two members without augmentation, after one chunk."""
    program = toy_program("proco", "none")
    state = dataclasses.replace(begin(), augmentation=())
    hyper = loop.make_hyper(program, 2)
    return loop.make_training(program).chunk(context._replace(world=None), hyper, state)


@pytest.fixture(scope="module")
def flat_context() -> Context:
    """As `toy_context`, of the flat observation, with random trajectories to replay."""
    data = toy_dataset()
    normalizer = jax.tree.map(jnp.asarray, fit_normalizer(FLAT, np.asarray(data.obs)))
    like = jax.eval_shape(
        lambda k: dynamics.init(CONFIG.dynamics, FLAT, ACTIONS, k), jax.random.key(7)
    )
    targets = jax.tree.map(jnp.asarray, dynamics_targets.fit_targets(FLAT, normalizer, data))
    elites = jnp.arange(CONFIG.dynamics.elites)
    limit, no = jnp.float32(0.3), jnp.zeros(1)
    own = (drawn(like.params), elites, normalizer, targets, limit)
    model = dynamics.Model(*own, no > 0, no, no > 0)
    net = cost.network(CONFIG.cost, CONFIG.encoder, FLAT)
    cost_like = jax.eval_shape(lambda k: cost.init(CONFIG.cost, net, k), jax.random.key(8))
    known = cost.CostModel(drawn(cost_like.params), normalizer, jnp.float32(1.0), jnp.float32(0.0))
    unsafe = jnp.arange(data.size) % 7 == 0
    horizon, count = CONFIG.rollouts.horizon, 5
    trajectories = rollouts.Imagined(
        obs=jax.random.normal(jax.random.key(9), (count, horizon + 1, FLAT.size)),
        action=jnp.zeros((count, horizon, ACTIONS)),
        reward=jnp.zeros((count, horizon)),
        unsafe=jnp.arange(count * horizon).reshape(count, horizon) % 3 == 0,
        length=jnp.full(count, horizon, jnp.int32),
        source=jnp.zeros(count, jnp.int32),
        origin=jnp.arange(count, dtype=jnp.int32) * 7,
    )
    held = buffer.add(buffer.empty_buffer(1, trajectories), trajectories)
    return Context(data, normalizer, WorldModel(model, known, unsafe, jnp.arange(20), held))


def flat_program(algorithm: str, augmentation: str) -> loop.Program:
    return loop.make_program(CONFIG, FLAT_TASK, algorithm, augmentation)


def counted(program: loop.Program) -> tuple[loop.Program, list[int]]:
    """The same program, and a list that grows with every trace of the algorithm's update."""
    traces: list[int] = []

    def update(*inputs):
        traces.append(1)
        return program.algorithm.update(*inputs)

    return program._replace(algorithm=program.algorithm._replace(update=update)), traces


def member(tree, index: int):
    """One member of a state or of hyperparameters, with its axis."""
    return jax.tree.map(lambda x: jnp.copy(x[index : index + 1]), tree)


def learned(state: loop.TrainState, index: int):
    """What a member learned."""
    parts = (state.algorithm.params, state.algorithm.feasibility.params)
    return member(parts, index)


def differ(left, right, **tolerance) -> bool:
    try:
        same_leaves(left, right, **tolerance)
    except AssertionError:
        return True
    return False


def test_warmup_fills_the_stated_generations(begin):
    state = begin()
    np.testing.assert_array_equal(state.augmentation.generation, CONFIG.rollouts.warmup)
    lengths = np.asarray(state.augmentation.data.length)
    assert lengths[:, : CONFIG.rollouts.warmup].all()
    assert not lengths[:, CONFIG.rollouts.warmup :].any()


def test_batches_hold_logged_rows_and_written_imagined_rows(context, begin):
    state, hyper = (jax.tree.map(lambda x: x[0], t) for t in (begin(), loop.make_hyper(PROGRAM, 1)))
    found = draw_transitions(
        PROGRAM.config.train,
        PROGRAM.augmentation,
        context,
        hyper.augmentation,
        state.augmentation,
        jax.random.key(1),
    )
    logged = CONFIG.train.batch
    np.testing.assert_array_equal(found.imagined, np.arange(2 * logged) >= logged)
    np.testing.assert_array_equal(found.weight, 1.0)
    # Two of three generations are still unwritten; their rows are zeros.
    unwritten = np.asarray(context.normalizer(jnp.zeros(context.data.obs.shape[1])))
    for obs in (found.obs, found.next_obs, found.n_step.obs, found.initial_obs):
        assert not np.any(np.all(np.asarray(obs)[logged:] == unwritten, axis=1))


def test_a_chunk_counts_its_steps_and_its_refreshes(after):
    first, third, metrics = after
    steps, every = CONFIG.train.chunk, CONFIG.rollouts.interval
    np.testing.assert_array_equal(first.step, steps)
    np.testing.assert_array_equal(third.step, 3 * steps)
    np.testing.assert_array_equal(
        third.augmentation.generation, CONFIG.rollouts.warmup + 3 * steps // every
    )
    assert all(np.shape(v) == (2,) and np.all(np.isfinite(v)) for v in metrics.values())
    assert "rollouts/violating_share" in metrics and "proco/policy_loss" in metrics


def test_seeds_learn_apart(after):
    leaves = jax.tree.leaves(after[0].algorithm.params)
    assert all(not np.array_equal(x[0], x[1]) for x in leaves)


def test_resume_is_bit_exact(tmp_path, after, context, hyper, begin, chunk):
    first, third, _ = after
    with Checkpoints(tmp_path / "train") as saved:
        saved.save(CONFIG.train.chunk, first)
    with Checkpoints(tmp_path / "train") as saved:
        restored = saved.restore(begin())
    assert restored is not None
    step, state = restored
    assert step == CONFIG.train.chunk
    for _ in range(2):
        state, _ = chunk(context, hyper, state)
    same_leaves(state, third)


def test_warmup_and_all_chunks_are_one_compiled_program(after):
    assert TRAINING.compiled._cache_size() == 1


@pytest.mark.slow
def test_without_augmentation_nothing_is_imagined(baseline):
    state, metrics = baseline
    assert state.augmentation == ()
    assert not [name for name in metrics if name.startswith("rollouts/")]
    np.testing.assert_array_equal(state.step, CONFIG.train.chunk)


@pytest.mark.slow
def test_reward_value_is_the_same_with_and_without_imagined_rows(after, baseline):
    ours, theirs = after[0].algorithm, baseline[0].algorithm
    same_leaves(ours.params["v"], theirs.params["v"], rtol=1e-4, atol=1e-4)
    for a, b in (
        (ours.params["policy"], theirs.params["policy"]),
        (ours.feasibility.params, theirs.feasibility.params),
    ):
        assert differ(a, b, rtol=1e-4, atol=1e-4)


def test_at_the_last_step_reward_value_and_policy_do_not_move(context, hyper, begin, chunk):
    state = begin()
    before = jax.tree.map(jnp.copy, state.algorithm)
    last = dataclasses.replace(
        state.algorithm, step=jnp.full_like(state.algorithm.step, CONFIG.train.steps)
    )
    late, _ = chunk(context, hyper, dataclasses.replace(state, algorithm=last))
    same_leaves(late.algorithm.params, before.params)
    assert differ(late.algorithm.feasibility.params, before.feasibility.params)


@pytest.mark.slow
def test_a_member_equals_it_alone_over_seeds(after, hyper, begin, alone):
    found = alone(member(hyper, 1), member(begin(), 1))
    same_leaves(learned(found, 0), learned(after[0], 1), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_member_equals_it_alone_over_hyperparameters(context, hyper, begin, chunk, alone):
    first = member(begin(), 0)
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), first)
    other = hyper._replace(
        algorithm=hyper.algorithm._replace(
            learning_rate=jnp.array([3e-4, 3e-3]), reward_temperature=jnp.array([4.0, 0.5])
        ),
        augmentation=hyper.augmentation._replace(violating_share=jnp.array([0.5, 0.2])),
    )
    compiled = TRAINING.compiled._cache_size()
    together, _ = chunk(context, other, both)
    assert TRAINING.compiled._cache_size() == compiled
    assert differ(learned(together, 0), learned(together, 1), rtol=1e-3, atol=1e-3)
    for index in range(2):
        found = alone(member(other, index), jax.tree.map(jnp.copy, first))
        same_leaves(learned(found, 0), learned(together, index), rtol=1e-5, atol=1e-5)


# Compiling dominates: PROCO without augmentation and with its own is above, an algorithm of a user
# below, and the other algorithms run with fixed imagined rows alone.
SLOW_LEARNERS = [
    *itertools.product(("proco",), ("control", "fixed_trajectories")),
    ("bc", "proco"),
    *itertools.product(sorted(set(ALGORITHMS) - {"proco", "bc"}), ("fixed_trajectories",)),
]
LEARNERS = [("bc", "none"), *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW_LEARNERS)]


def sound(program: loop.Program, state: loop.TrainState, metrics: dict[str, jax.Array]) -> None:
    """Asserts that all numbers are finite, and that critics are where a shield or a policy is."""
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.algorithm))
    assert all(np.all(np.isfinite(v)) for v in metrics.values())
    # Without augmentation no shield needs critics; PROCO's algorithm and FISOR need them always.
    own = program.algorithm.name in ("proco", "fisor")
    augmented = program.augmentation.name != "none"
    assert (state.critics is not None) == (augmented and not own)
    assert ("feasibility/q_loss" in metrics) == (augmented or own)
    assert (loop.critics_of(program, state) is not None) == (augmented or own)


@pytest.mark.slow
def test_proco_is_sound_with_and_without_its_augmentation(after, baseline):
    sound(PROGRAM, *after[1:])
    sound(toy_program("proco", "none"), *baseline)


@pytest.mark.parametrize(("algorithm", "augmentation"), LEARNERS)
def test_every_algorithm_trains_with_every_augmentation(algorithm, augmentation, flat_context):
    context = flat_context if augmentation != "none" else flat_context._replace(world=None)
    program, traces = counted(flat_program(algorithm, augmentation))
    hyper = loop.make_hyper(program, 2)
    training = loop.make_training(program)
    state = jax.device_put(training.init(context, hyper, toy_keys()), jax.devices()[0])
    state = training.warm_up(context, hyper, state)
    before = jax.tree.map(jnp.copy, state.algorithm)
    chunk = training.chunk
    state, metrics = chunk(context, hyper, state)
    once = len(traces)
    for _ in range(2):
        state, metrics = chunk(context, hyper, state)
    assert len(traces) == once and training.compiled._cache_size() == 1
    sound(program, state, metrics)
    assert differ(before, state.algorithm)
    np.testing.assert_array_equal(state.step, 3 * CONFIG.train.chunk)


@pytest.mark.parametrize("algorithm", ["bc", "proco", "fisor"])
def test_critics_begin_with_the_encoder_of_the_cost_network_where_there_is_one(
    algorithm, flat_context
):
    """Wherever they are trained; not without knowledge, nor if a setting says so."""
    world = flat_context.world
    scratch = dataclasses.replace(CONFIG.feasibility, pretrained_encoder=False)
    scratch = dataclasses.replace(CONFIG, feasibility=scratch)

    def critics(config, context):
        program = loop.make_program(config, FLAT_TASK, algorithm, "fixed_trajectories")
        state = loop.make_training(program).init(context, loop.make_hyper(program, 2), toy_keys())
        found = loop.critics_of(program, state)
        assert found is not None
        same_leaves(found.params["q"], found.target_q)
        return found.params

    first = jax.tree.map(lambda x: x[0], world.cost.params)["params"]["encoder"]
    begun = critics(CONFIG, flat_context)
    for seed in range(2):
        own = jax.tree.map(lambda x, seed=seed: x[seed], begun["v"])["params"]["encoder"]
        same_leaves(own, first)
    fresh = critics(scratch, flat_context)
    without = critics(CONFIG, flat_context._replace(world=world._replace(cost=None)))
    same_leaves(fresh, without)
    assert differ(fresh["v"]["params"]["encoder"], begun["v"]["params"]["encoder"])
    # The heads do not depend on it.
    for name in ("q", "v"):
        same_leaves(fresh[name]["params"]["Heads_0"], begun[name]["params"]["Heads_0"])


@pytest.mark.parametrize("augmentation", ["none", "fixed_trajectories"])
def test_six_members_of_a_users_algorithm_are_one_program(augmentation, flat_context):
    """Two seeds times three learning rates; the critics beside it learn with the imagined rows."""
    program, traces = counted(flat_program("toy_algorithm:make", augmentation))
    context = flat_context if augmentation != "none" else flat_context._replace(world=None)
    keys = jnp.repeat(toy_keys(2), 3)
    rates = jnp.tile(jnp.array([0.0, 0.01, 0.05]), 2)
    hyper = loop.make_hyper(program, 6)
    hyper = hyper._replace(algorithm=hyper.algorithm._replace(learning_rate=rates))
    training = loop.make_training(program)
    state = training.init(context, hyper, keys)
    critics, before = jax.tree.map(jnp.copy, state.critics), np.asarray(state.algorithm)
    np.testing.assert_array_equal(before[0], before[1])
    chunk = training.chunk
    state, first = chunk(context, hyper, state)
    once = len(traces)
    for _ in range(10):
        state, last = chunk(context, hyper, state)
    assert len(traces) == once and training.compiled._cache_size() == 1
    sound(program, state, last)
    if critics is not None and state.critics is not None:
        for name in ("q", "v"):
            assert differ(critics.params[name], state.critics.params[name]), name
    weights = np.asarray(state.algorithm)
    assert weights.shape == (6, FLAT.size, ACTIONS)
    np.testing.assert_array_equal(weights[[0, 3]], before[[0, 3]])
    assert len(np.unique(weights.reshape(6, -1), axis=0)) == 6
    improved = np.asarray(first["toy/loss"] - last["toy/loss"])
    assert np.all(improved[[1, 2, 4, 5]] > 0.05)


@pytest.mark.slow
def test_sharded_over_devices_equals_unsharded(tmp_path, begin, after):
    for name, state in (("begin", begin()), ("after", after[0])):
        with Checkpoints(tmp_path / name) as saved:
            saved.save(1, state)
    code = f"import test_training; test_training.compare_sharded({str(tmp_path)!r})"
    assert "4 devices" in run_on_devices(4, code)


def compare_sharded(folder: str) -> None:
    """Run in a process of its own: the two members on two of four devices."""
    context, hyper = toy_context(), loop.make_hyper(PROGRAM, 2)
    like = jax.eval_shape(TRAINING.init, context, hyper, toy_keys())
    states = []
    for name in ("begin", "after"):
        with Checkpoints(Path(folder) / name) as saved:
            restored = saved.restore(like)
        assert restored is not None
        states.append(restored[1])
    spread = sharding.shard_members(states[0], 2)
    used = {d for x in jax.tree.leaves(spread) for d in x.sharding.device_set}
    where = jax.tree.map(lambda x: x.sharding, spread)
    hyper = sharding.shard_members(hyper, 2)
    ours, _ = TRAINING.chunk(sharding.replicate(context, 2), hyper, spread)
    # Otherwise the second chunk would be compiled anew.
    assert where == jax.tree.map(lambda x: x.sharding, ours) and len(used) == 2
    same_leaves(ours.algorithm.params, states[1].algorithm.params, rtol=1e-4, atol=1e-4)
    compare_rows()
    print(jax.device_count(), "devices")


def compare_rows() -> None:
    """Members that four devices cannot share evenly come back unchanged."""
    for members, mesh, rows in ((5, 3, 6), (3, 3, 3), (8, 4, 8), (9, 3, 9), (1, 1, 1)):
        tree = {"x": jnp.arange(float(members)), "key": toy_keys(members)}
        spread = sharding.shard_members(tree, members)
        assert spread["x"].shape == (rows,) and sharding.member_mesh(members).size == mesh
        same_leaves(sharding.unpad_members(spread, members), tree)
        # Of any number of rows, each once.
        found = jax.jit(lambda tree: sharding.over_all_members(shift, jnp.float32(2.0), tree))(tree)
        np.testing.assert_array_equal(found, 2.0 + np.arange(members))


def shift(shared: jax.Array, own: dict[str, jax.Array]) -> jax.Array:
    return shared + own["x"]


def test_on_one_device_members_stay_as_they_are():
    placed = sharding.shard_members({"x": jnp.arange(3.0)}, 3)
    np.testing.assert_array_equal(placed["x"], [0, 1, 2])
    assert sharding.unpad_members(placed, 3)["x"] is placed["x"]


def test_metrics_are_means_over_steps():
    found = loop._mean({"a": jnp.array([[1.0, 2.0], [3.0, 4.0]])})
    np.testing.assert_array_equal(found["a"], [2.0, 3.0])
