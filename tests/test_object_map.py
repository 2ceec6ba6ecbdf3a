"""Where objects are that rings show, against the simulator's lidar and by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.data.logs import to_dataset
from proco_jax.envs.batched.lidar import BINS, lidar
from proco_jax.models import dynamics, object_map
from proco_jax.models.dynamics import Model
from proco_jax.models.dynamics_targets import Targets
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Episode

REACH = 3.0
RING = Field("posts", BINS, "ring", "closeness", "Posts.", reach=REACH)
SPEED = Field("speed", 2, "flat", "m/s", "Speed.")
SPEC = ObservationSpec((SPEED, RING))
ALONE = ObservationSpec((RING,))
TWO = ObservationSpec((RING, SPEED, Field("walls", 4, "ring", "closeness", "Walls.", reach=6.0)))
RESTING = jnp.ones(1, bool)

begin = jax.jit(object_map.begin, static_argnums=0)
state_of = jax.jit(object_map.state_of, static_argnums=0)
relocated = jax.jit(object_map.relocated, static_argnums=0)


def seen(objects: np.ndarray, place: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """The simulator's rings `[N, 16]` of objects `[N, K, 2]` from places `[N, 2]`."""
    worlds = len(objects)
    agent = np.column_stack([place, np.zeros(worlds)])
    zero, one = np.zeros(worlds), np.ones(worlds)
    cos, sin = np.cos(heading), np.sin(heading)
    frame = np.column_stack([cos, -sin, zero, sin, cos, zero, zero, zero, one])
    return lidar(objects, np.zeros(objects.shape[1], np.intp), 1, agent, frame, REACH)


def walk(objects: np.ndarray, motions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True rings `[H + 1, N, 16]` along motions `[H, 3]`, and those of a state that is carried."""
    worlds = len(objects)
    place, heading = np.zeros((worlds, 2)), np.zeros(worlds)
    true = [seen(objects, place, heading)]
    state = begin(ALONE, jnp.asarray(true[0], jnp.float32))
    shown = [np.asarray(object_map.observation(ALONE, state))]
    carry = jax.jit(lambda state, motion: step(state, motion))
    for dx, dy, turn in motions:
        cos, sin = np.cos(heading), np.sin(heading)
        place = place + np.column_stack([cos * dx - sin * dy, sin * dx + cos * dy])
        heading = heading + turn
        true.append(seen(objects, place, heading))
        state = carry(state, jnp.array([dx, dy, turn], jnp.float32))
        shown.append(np.asarray(object_map.observation(ALONE, state)))
    return np.array(true), np.array(shown)


def step(state: jax.Array, motion: jax.Array) -> jax.Array:
    motion = jnp.broadcast_to(motion, (*state.shape[:-1], 3))
    places = object_map.moved(ALONE, state, motion)
    blank = jnp.zeros((*state.shape[:-1], ALONE.size))
    return state_of(ALONE, RESTING, blank, places)


def around(rng: np.random.Generator, angles: np.ndarray) -> np.ndarray:
    """Objects `[N, K, 2]` in directions `[N, K]`, at random distances."""
    distance = rng.uniform(0.8, 2.2, angles.shape)
    return distance[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


@pytest.mark.parametrize("count", [1, 3])
def test_after_a_hundred_steps_objects_are_seen_as_by_the_simulator(count: int) -> None:
    rng = np.random.default_rng(count)
    first = rng.uniform(0, 2 * np.pi, (200, 1))
    objects = around(rng, first + np.arange(count) * 2 * np.pi / count)
    motions = rng.uniform(-1, 1, (100, 3)) * [0.02, 0.02, 0.2] + [0.005, 0.0, 0.03]
    true, shown = walk(objects, motions)
    np.testing.assert_allclose(shown, true, atol=1e-4)
    assert np.abs(true[-1] - true[0]).max() > 0.3


def test_what_was_hidden_on_the_way_or_left_the_reach_is_not_forgotten() -> None:
    # From 0.7 m ahead and 1.15 m to the left, the far one is behind the near one.
    objects = np.array([[[1.0, 0.5], [1.6, -0.8]]])
    aside, back = [[0.7 / 60, 1.15 / 60, 0.0]] * 60, [[-0.7 / 60, -1.15 / 60, 0.0]] * 60
    away, home = [[-0.02, 0.0, 0.0]] * 100, [[0.02, 0.0, 0.0]] * 100
    true, shown = walk(objects, np.array(aside + back + away + home))
    np.testing.assert_allclose(shown, true, atol=1e-4)
    one = seen(objects[:, :1], np.array([[0.7, 1.15]]), np.zeros(1))
    np.testing.assert_allclose(true[60], one, atol=1e-6)
    assert true[0].max() > 0.4 and true[220].max() == 0.0
    np.testing.assert_allclose(shown[-1], shown[0], atol=1e-4)


def test_objects_in_bins_side_by_side_are_all_found() -> None:
    rng = np.random.default_rng(0)
    middle = (rng.integers(0, BINS, (300, 1)) + 0.5) * 2 * np.pi / BINS
    # The outer ones reach no bin of their neighbors but one.
    objects = around(rng, middle + np.array([-1.4, 0.0, 1.4]) * 2 * np.pi / BINS)
    rings = seen(objects, np.zeros((300, 2)), np.zeros(300))
    state = begin(ALONE, jnp.asarray(rings, jnp.float32))
    places = np.asarray(state[:, BINS:]).reshape(300, BINS, 2)
    known = np.hypot(*np.moveaxis(places, -1, 0)) < REACH
    far = np.linalg.norm(objects[:, :, None] - places[:, None], axis=-1)
    assert (known.sum(axis=1) == 3).mean() > 0.9
    # Their distances are exact; their directions are those of the bin at worst.
    assert np.median(far.min(axis=2)) < 0.05 and far.min(axis=2).max() < 2.3 * 2 * np.pi / BINS
    again = state_of(ALONE, RESTING, jnp.zeros((300, BINS)), state[:, BINS:])
    assert np.sqrt(np.mean((np.asarray(again)[:, :BINS] - rings) ** 2)) < 0.06


def test_only_resting_rings_are_shown_from_places_and_other_numbers_are_kept() -> None:
    rng = np.random.default_rng(1)
    obs = jnp.asarray(rng.uniform(0.1, 1, (5, TWO.size)), jnp.float32)
    state = begin(TWO, obs)
    assert state.shape == (5, TWO.size + 2 * (BINS + 4))
    np.testing.assert_array_equal(object_map.observation(TWO, state), obs)
    other, places = jnp.asarray(rng.uniform(0, 1, obs.shape), jnp.float32), state[:, TWO.size :]
    for resting in ([True, False], [False, True], [False, False]):
        found = state_of(TWO, jnp.array(resting), other, places)[:, : TWO.size]
        for field, rests in zip(TWO.rings, resting, strict=True):
            where = TWO.slices[field.name]
            same = np.array_equal(found[:, where], other[:, where])
            assert same is not rests
        where = TWO.slices["speed"]
        np.testing.assert_array_equal(found[:, where], other[:, where])


def test_without_rings_a_state_is_the_observation() -> None:
    spec, obs = ObservationSpec((SPEED,)), jnp.array([[1.0, 2.0]])
    state = begin(spec, obs)
    places = object_map.moved(spec, state, jnp.ones((1, 3)))
    nothing = jnp.zeros(1, bool)
    for found in (state, state_of(spec, nothing, obs, places)):
        np.testing.assert_array_equal(found, obs)
    np.testing.assert_array_equal(relocated(spec, state, jnp.ones((1, 2), bool)), obs)


def test_only_the_rings_that_are_drawn_anew_are_located_again() -> None:
    rng = np.random.default_rng(2)
    obs = jnp.asarray(rng.uniform(0.1, 1, (4, TWO.size)), jnp.float32)
    old = begin(TWO, obs)
    new = jnp.asarray(rng.uniform(0.1, 1, (4, TWO.size)), jnp.float32)
    again = jnp.zeros((4, TWO.size), bool).at[1:3, TWO.slices["walls"]].set(True)
    drawn = old.at[:, : TWO.size].set(jnp.where(again, new, obs))
    found = np.asarray(relocated(TWO, drawn, again))
    posts, walls = TWO.size + np.arange(2 * BINS), TWO.size + 2 * BINS + np.arange(8)
    np.testing.assert_array_equal(found[:, posts], old[:, posts])
    np.testing.assert_array_equal(found[[0, 3]], old[jnp.array([0, 3])])
    expected = np.asarray(begin(TWO, drawn[:, : TWO.size]))
    np.testing.assert_array_equal(found[1:3][:, walls], expected[1:3][:, walls])
    assert not np.array_equal(found[1:3][:, walls], old[1:3][:, walls])


def test_an_object_that_is_run_over_shows_in_some_bin_and_nothing_else_is_seen() -> None:
    ring = np.zeros((1, BINS), np.float32)
    ring[0, 3] = 1.0
    found = np.asarray(step(begin(ALONE, jnp.asarray(ring)), jnp.zeros(3)))[0, :BINS]
    assert found.max() == 1.0 and np.isfinite(found).all() and np.count_nonzero(found) <= 3


class Driver:
    """Knows how the agent moves, and predicts that the objects of all rings stay where they are.

    The speed is the motion per step, ahead and to the left.
    """

    spec = ObservationSpec((SPEED, RING, Field("birds", BINS, "ring", "closeness", "B.", REACH)))

    def apply(self, params: Any, obs: jax.Array, action: jax.Array) -> Any:
        zero = jnp.zeros((*obs.shape[:-1], self.spec.size + 2)) + 0.0 * params
        motion = jnp.concatenate([obs[..., :2], zero[..., :1]], axis=-1)
        return zero, zero, zero, motion


class Navigator:
    """Turns as the turn sensor says, and predicts that compass, velocity and ring stay as they are.

    The compass is fixed in the world, the velocity is not.
    """

    spec = ObservationSpec(
        (
            Field("velocity", 2, "vector", "m/s", "V."),
            Field("compass", 3, "vector", "", "North."),
            Field("turn", 1, "flat", "rad", "Turn per step."),
            RING,
        )
    )

    def apply(self, params: Any, obs: jax.Array, action: jax.Array) -> Any:
        zero = jnp.zeros((*obs.shape[:-1], self.spec.size + 2)) + 0.0 * params
        motion = jnp.concatenate([zero[..., :2], obs[..., 5:6]], axis=-1)
        return zero, zero, zero, motion


def navigation_model(fixed: list[bool]) -> Model:
    size = Navigator.spec.size
    one = jnp.ones(size + 2)
    targets = Targets(0 * one, one, one, jnp.ones(1), jnp.array([-1.0, 1.0]))
    normalizer = Normalizer(jnp.zeros(size), jnp.ones(size))
    own = (jnp.zeros(1), jnp.arange(1), normalizer, targets, jnp.inf)
    return Model(*own, jnp.zeros(1, bool), jnp.zeros(1), jnp.array(fixed))


def test_a_vector_that_is_fixed_in_the_world_turns_against_the_agent() -> None:
    net: Any = Navigator()
    obs = jnp.array([0.5, 0.0, 0.3, 0.4, -0.7, np.pi / 2, *[0.0] * BINS], jnp.float32)
    for fixed in ([False, True], [False, False], [True, True]):
        state = begin(net.spec, obs)
        found = dynamics.predict_mean(net, navigation_model(fixed), state, jnp.zeros(1)).next_state
        # A quarter turn to the left: what was ahead is to the right, what was left is ahead.
        velocity = [0.0, -0.5] if fixed[0] else [0.5, 0.0]
        compass = [0.4, -0.3, -0.7] if fixed[1] else [0.3, 0.4, -0.7]
        np.testing.assert_allclose(found[:5], [*velocity, *compass], atol=1e-6)


def test_residuals_leave_out_what_follows_from_the_motion() -> None:
    """The model predicts no change; all numbers change, of fixed vectors all but the third."""
    rng, net = np.random.default_rng(6), Navigator()
    obs = rng.uniform(0.1, 0.9, (21, Navigator.spec.size)).astype(np.float32)
    nothing = np.zeros(20, np.float32)
    episode = Episode(obs, np.zeros((20, 1), np.float32), nothing, nothing, False)
    known: Any = net
    data = jax.tree.map(jnp.asarray, to_dataset([episode]))
    found = dynamics.residuals(known, navigation_model([False, True]), data, 1, 9)
    missed = np.any(np.asarray(found) != 0.0, axis=0)
    np.testing.assert_array_equal(missed, [True, True, False, False, True, True, *[False] * BINS])


def test_fixed_vectors_are_told_from_others_on_held_out_logs() -> None:
    """Episodes that turn at their own speeds, with a constant velocity in the agent's frame."""
    rng, net = np.random.default_rng(5), Navigator()
    episodes = []
    for turn in rng.uniform(-0.1, 0.1, 6):
        heading = turn * np.arange(61)
        compass = np.stack([np.cos(heading), -np.sin(heading), 0 * heading], axis=1)
        velocity = np.repeat(rng.uniform(-1, 1, (1, 2)), 61, axis=0)
        rest = np.concatenate([np.full((61, 1), turn), np.zeros((61, BINS))], axis=1)
        obs = np.concatenate([velocity, compass, rest], axis=1).astype(np.float32)
        nothing = np.zeros(60, np.float32)
        episodes.append(Episode(obs, np.zeros((60, 1), np.float32), nothing, nothing, False))
    data = jax.tree.map(jnp.asarray, to_dataset(episodes))
    known: Any = net
    model = navigation_model([False, False])
    found = jax.jit(lambda data: dynamics.fixed_vectors(known, model, data))(data)
    np.testing.assert_array_equal(found, [False, True])


class Spread:
    """Members predict other changes: their parameter for the speed, a fifth of it for the ring."""

    spec = SPEC

    def apply(self, params: Any, obs: jax.Array, action: jax.Array) -> Any:
        one = jnp.ones(SPEC.size + 2).at[SPEC.slices["posts"]].set(0.2)
        zero = jnp.zeros(SPEC.size + 2)
        return params * one, zero, zero, jnp.zeros(3)


@pytest.mark.parametrize(("resting", "expected"), [(True, 0.5), (False, np.sqrt(0.66 / 18))])
def test_members_do_not_disagree_about_rings_of_resting_objects(
    resting: bool, expected: float
) -> None:
    one = jnp.ones(SPEC.size + 2)
    targets = Targets(0 * one, one, one, jnp.ones(1), jnp.array([-1.0, 1.0]))
    normalizer = Normalizer(jnp.zeros(SPEC.size), jnp.ones(SPEC.size))
    shown = jnp.full(1, resting)
    own = (jnp.array([0.0, 1.0]), jnp.arange(2), normalizer, targets, jnp.inf)
    model = Model(*own, shown, jnp.zeros(1), jnp.zeros(1, bool))
    net: Any = Spread()
    state = begin(SPEC, jnp.full(SPEC.size, 0.5))
    found = dynamics.predict_mean(net, model, state, jnp.zeros(1))
    # The speeds have a variance of 0.25 each, the 16 bins one of 0.01.
    np.testing.assert_allclose(found.disagreement, expected, rtol=1e-5)


def test_rings_of_resting_objects_are_told_from_others_on_held_out_logs() -> None:
    """Posts stay where they are; birds fly along, so that they are always seen as they are."""
    rng, net = np.random.default_rng(4), Driver()
    episodes = []
    for _ in range(6):
        speed = rng.uniform(-0.02, 0.02, 2)
        time = np.arange(61)[:, None]
        posts = np.repeat(around(rng, rng.uniform(0, 6.2, (1, 1))), 61, axis=0)
        birds = np.repeat(around(rng, rng.uniform(0, 6.2, (1, 1))), 61, axis=0)
        rings = seen(posts, time * speed, np.zeros(61)), seen(birds, 0 * time * speed, np.zeros(61))
        obs = np.concatenate([np.repeat(speed[None], 61, axis=0), *rings], axis=1)
        nothing = np.zeros(60, np.float32)
        action = np.zeros((60, 1), np.float32)
        episodes.append(Episode(obs.astype(np.float32), action, nothing, nothing, False))
    size = net.spec.size
    one = np.ones(size + 2, np.float32)
    targets = Targets(0 * one, one, one, np.ones(2), np.array([-1.0, 1.0]))
    normalizer = Normalizer(jnp.zeros(size), jnp.ones(size))
    known: Any = net
    model = Model(
        jnp.zeros(1),
        jnp.arange(1),
        normalizer,
        targets,
        jnp.inf,
        jnp.zeros(2, bool),
        jnp.zeros(2),
        jnp.zeros(1, bool),
    )
    data = jax.tree.map(jnp.asarray, to_dataset(episodes))
    found = jax.jit(lambda data: dynamics.resting_rings(known, model, data))(data)
    np.testing.assert_array_equal(found, [True, False])
