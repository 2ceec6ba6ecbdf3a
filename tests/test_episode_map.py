"""What a logged episode tells of objects that one of its observations does not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_object_map import REACH, seen

from proco_jax.data.logs import to_dataset
from proco_jax.envs.batched.lidar import BINS
from proco_jax.models import episode_map, object_map
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Dataset, Episode

SPEC = ObservationSpec(
    (
        Field("posts", BINS, "ring", "closeness", "Posts.", reach=REACH),
        Field("flag", BINS, "ring", "closeness", "The flag.", reach=REACH),
    )
)
RESTING, REDRAWN = jnp.array([True, True]), jnp.array([False, True])
RINGS = episode_map.Rings(RESTING, REDRAWN, single=REDRAWN, still=RESTING)
STEPS = 120
# From the origin, the second post is hidden by the first.
POSTS = np.array([[0.8, 0.0], [1.4, 0.0]])
FLAGS = np.array([[0.5, 0.9], [1.5, 0.2], [1.5, 2.0]])
# The transitions that reach the flag.
REACHED = (39, 79)


def walked() -> tuple[np.ndarray, np.ndarray]:
    """Motions `[T, 3]` of an agent that drives a curve around the posts, and poses `[T + 1, 3]`."""
    motion = np.tile([0.035, 0.002, 0.0], (STEPS, 1))
    motion[:30, 2], motion[30:, 2] = 0.05, -0.03
    poses = np.zeros((STEPS + 1, 3))
    for t, (x, y, turn) in enumerate(motion):
        cos, sin = np.cos(poses[t, 2]), np.sin(poses[t, 2])
        poses[t + 1] = poses[t] + [cos * x - sin * y, sin * x + cos * y, turn]
    return motion, poses


def logs(episodes: int = 1) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Episodes of that walk, the motions of all, and which transitions earned a bonus."""
    motion, poses = walked()
    bonus = np.isin(np.arange(STEPS), REACHED)
    flag = FLAGS[np.concatenate([[0], np.cumsum(bonus)])]
    posts = np.repeat(POSTS[None], STEPS + 1, axis=0)
    rings = [seen(x, poses[:, :2], poses[:, 2]) for x in (posts, flag[:, None])]
    obs = np.concatenate(rings, axis=1).astype(np.float32)
    nothing = np.zeros(STEPS, np.float32)
    one = Episode(obs, np.zeros((STEPS, 1), np.float32), bonus.astype(np.float32), nothing, False)
    data = jax.tree.map(jnp.asarray, to_dataset([one] * episodes))
    return data, np.tile(motion, (episodes, 1)), np.tile(bonus, episodes)


def begun(rows: list[int], episodes: int = 1) -> tuple[list[np.ndarray], np.ndarray]:
    """The places of each ring `[K, n, 2]` at these rows, and those elsewhere `[K, R, SPARE, 2]`."""
    data, motion, bonus = logs(episodes)
    route = episode_map.route(data, motion, bonus)
    states = episode_map.begin(SPEC, RINGS, data.obs, route, np.array(rows))
    np.testing.assert_array_equal(states[:, : SPEC.size], data.obs[np.array(rows)])
    places = [np.asarray(x) for x in object_map.places_by_ring(SPEC, states)]
    spare = np.asarray(states[:, SPEC.size + 4 * BINS :])
    return places, spare.reshape(len(rows), 2, object_map.SPARE, 2)


def known(places: np.ndarray) -> np.ndarray:
    """Those of places `[n, 2]` that are those of an object, nearest first."""
    found = places[np.abs(places[:, 0]) < object_map.NOWHERE / 2]
    return found[np.argsort(np.linalg.norm(found, axis=1))]


def as_seen(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points `[n, 2]` of the plane in the frame of a pose."""
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return (points - pose[:2]) @ np.array([[cos, -sin], [sin, cos]])


def test_the_route_adds_up_motions_and_counts_bonuses_in_each_episode() -> None:
    data, motion, bonus = logs(2)
    route = episode_map.route(data, motion, bonus)
    _, poses = walked()
    np.testing.assert_allclose(route.pose, np.tile(poses, (2, 1)), atol=1e-5)
    np.testing.assert_array_equal(route.episode, np.repeat([0, 1], STEPS + 1))
    draws = np.repeat([0, 1, 2], [40, 40, STEPS - 79])
    np.testing.assert_array_equal(route.draw, np.tile(draws, 2))


@pytest.mark.parametrize("row", [0, 2])
def test_a_hidden_object_is_known_from_where_it_is_seen(row: int) -> None:
    places, _ = begun([row])
    found, pose = known(places[0][0]), walked()[1][row]
    assert len(found) == 2
    np.testing.assert_allclose(found, as_seen(POSTS, pose), atol=0.05)
    data = logs()[0]
    alone = object_map.places_by_ring(SPEC, object_map.begin(SPEC, data.obs[row : row + 1]))
    assert len(known(np.asarray(alone[0][0]))) == 1


def test_only_true_objects_are_added_and_none_twice() -> None:
    rows = list(range(0, STEPS, 7))
    places, _ = begun(rows)
    alone = object_map.begin(SPEC, logs()[0].obs[np.array(rows)])
    added = 0
    for k, row in enumerate(rows):
        found, true = known(places[0][k]), as_seen(POSTS, walked()[1][row])
        own = known(np.asarray(object_map.places_by_ring(SPEC, alone)[0][k]))
        assert np.isclose(found[:, None], own[None]).all(axis=-1).any(axis=0).all()
        new = [x for x in found if not np.isclose(own, x).all(axis=1).any()]
        added += len(new)
        for place in new:
            assert np.linalg.norm(true - place, axis=1).min() < 0.02
            assert np.linalg.norm(own - place, axis=1).min() > episode_map.SAME
        assert len(known(places[1][k])) == 1
    assert added >= 4


def test_rings_of_single_and_of_moving_objects_are_told_from_others() -> None:
    """The flag rests between bonuses. A bird in its place circles around, 0.5 m from its middle."""
    data, motion, bonus = logs(3)
    rows = np.asarray(data.obs_index)
    route = episode_map.route(data, motion, bonus)
    found = episode_map.find_rings(SPEC, RESTING, REDRAWN, data.obs, route, rows)
    np.testing.assert_array_equal(found.single, [False, True])
    np.testing.assert_array_equal(found.still, [True, True])
    poses = walked()[1]
    angle = np.arange(STEPS + 1) * 2 * np.pi / 70
    bird = [0.5, 0.5] + 0.5 * np.column_stack([np.cos(angle), np.sin(angle)])
    ring = seen(bird[:, None], poses[:, :2], poses[:, 2])
    obs = data.obs.at[:, BINS:].set(np.tile(ring, (3, 1)))
    never = jnp.zeros(2, bool)
    found = episode_map.find_rings(SPEC, RESTING, never, obs, route, rows)
    np.testing.assert_array_equal(found.still, [True, False])


def test_nothing_is_added_to_moving_objects_and_single_rings_show_one() -> None:
    data, motion, bonus = logs()
    route, row = episode_map.route(data, motion, bonus), np.array([0])
    for rings in (RINGS._replace(still=~RESTING), RINGS._replace(single=RESTING)):
        states = episode_map.begin(SPEC, rings, data.obs, route, row)
        assert len(known(np.asarray(object_map.places_by_ring(SPEC, states)[0][0]))) == 1


def test_objects_of_other_draws_are_not_added() -> None:
    """Two posts that a bonus draws anew: before it, only their first places are known."""
    data, motion, _ = logs()
    route = episode_map.route(data, motion, np.arange(STEPS) == 2)
    rings = RINGS._replace(redrawn=RESTING, single=~RESTING)
    states = episode_map.begin(SPEC, rings, data.obs, route, np.array([0]))
    places, spare = object_map.places_by_ring(SPEC, states), states[0, SPEC.size + 4 * BINS :]
    assert len(known(np.asarray(places[0][0]))) == 1
    assert np.asarray(spare).min() > object_map.NOWHERE / 2


def test_a_short_episode_and_a_ring_that_shows_nothing_are_no_error() -> None:
    obs = np.zeros((3, SPEC.size), np.float32)
    nothing, action = np.zeros(2, np.float32), np.zeros((2, 1), np.float32)
    data = jax.tree.map(jnp.asarray, to_dataset([Episode(obs, action, nothing, nothing, False)]))
    route = episode_map.route(data, np.zeros((2, 3)), np.array([False, True]))
    rows = np.asarray(data.obs_index)
    rings = episode_map.find_rings(SPEC, RESTING, REDRAWN, data.obs, route, rows)
    states = np.asarray(episode_map.begin(SPEC, rings, data.obs, route, rows))
    assert (states[:, : SPEC.size] == 0.0).all()
    assert (states[:, SPEC.size :] > object_map.NOWHERE / 2).all()


def test_bonuses_draw_from_the_places_of_the_episode() -> None:
    rows = [5, 60, 110]
    _, spare = begun(rows)
    for k, row in enumerate(rows):
        assert not len(known(spare[k, 0]))
        found, true = known(spare[k, 1]), as_seen(FLAGS, walked()[1][row])
        np.testing.assert_allclose(found, true[np.argsort(np.linalg.norm(true, axis=1))], atol=0.02)


def test_episodes_are_apart() -> None:
    one, other = begun([3, STEPS + 1 + 3], 2), begun([3])
    for found, alone in zip((*one[0], one[1]), (*other[0], other[1]), strict=True):
        np.testing.assert_allclose(found[0], alone[0], atol=1e-5)
        np.testing.assert_allclose(found[1], alone[0], atol=1e-5)


def test_a_drawn_ring_shows_one_of_its_other_places_but_not_the_one_that_was_reached() -> None:
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.uniform(0.1, 0.9, (300, SPEC.size)), jnp.float32)
    spare = np.full((300, 2, object_map.SPARE, 2), object_map.NOWHERE, np.float32)
    others = np.array([[1.0, 1.0], [-1.5, 0.2], [0.1, 0.1]])
    spare[:, 1, :3] = others
    state = object_map.with_elsewhere(SPEC, object_map.begin(SPEC, obs), jnp.asarray(spare))
    again = jnp.zeros((300, 2), bool).at[:, 1].set(jnp.arange(300) < 200)
    draw = jax.jit(object_map.elsewhere, static_argnums=0)
    found = draw(SPEC, jax.random.key(0), state, again)
    np.testing.assert_array_equal(found[200:], state[200:])
    np.testing.assert_array_equal(found[:, :BINS], state[:, :BINS])
    places = np.asarray(object_map.places_by_ring(SPEC, found)[1])[:200]
    assert all(len(known(x)) == 1 for x in places)
    drawn = np.array([known(x)[0] for x in places])
    shares = [np.isclose(drawn, other).all(axis=1).mean() for other in others]
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.0], atol=0.12)
    expected = seen(drawn[:, None], np.zeros((200, 2)), np.zeros(200))
    np.testing.assert_allclose(found[:200, BINS : 2 * BINS], expected, atol=1e-5)
    # A state that knows no other places is left as it is.
    bare = object_map.begin(SPEC, obs)
    np.testing.assert_array_equal(draw(SPEC, jax.random.key(0), bare, again), bare)


def test_other_places_move_with_the_agent() -> None:
    spare = np.full((1, 2, object_map.SPARE, 2), object_map.NOWHERE, np.float32)
    spare[0, 1, 0] = [1.0, 0.5]
    begin = object_map.begin(SPEC, jnp.zeros((1, SPEC.size)))
    state = object_map.with_elsewhere(SPEC, begin, jnp.asarray(spare))
    places = object_map.moved(SPEC, state, jnp.array([[0.2, 0.0, np.pi / 2]]))
    state = object_map.state_of(SPEC, RESTING, jnp.zeros((1, SPEC.size)), places)
    again = jnp.array([[False, True]])
    found = object_map.elsewhere(SPEC, jax.random.key(1), state, again)
    np.testing.assert_allclose(
        known(np.asarray(object_map.places_by_ring(SPEC, found)[1][0])), [[0.5, -0.8]], atol=1e-5
    )
