"""A ring after a motion of the agent, against the simulator's lidar and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.envs.batched.lidar import BINS, lidar
from proco_jax.models.ring_motion import moved

REACH = 3.0
WIDTH = 2 * np.pi / BINS


def seen(objects: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The simulator's rings `[N, 16]` of objects `[N, K, 2]` after motions `[N, 3]`."""
    worlds, turn = len(objects), motion[:, 2]
    agent = np.column_stack([motion[:, :2], np.zeros(worlds)])
    zero, one = np.zeros(worlds), np.ones(worlds)
    cos, sin = np.cos(turn), np.sin(turn)
    frame = np.column_stack([cos, -sin, zero, sin, cos, zero, zero, zero, one])
    return lidar(objects, np.zeros(objects.shape[1], np.intp), 1, agent, frame, REACH)


def predicted(rings: np.ndarray, motion: np.ndarray) -> np.ndarray:
    change, _ = moved(jnp.asarray(rings)[..., None], jnp.array([REACH]), jnp.asarray(motion))
    return rings + np.asarray(change)[..., 0]


def around(rng: np.random.Generator, angles: np.ndarray, nearest: float) -> np.ndarray:
    """Objects `[N, K, 2]` in directions `[N, K]`, at random distances."""
    distance = rng.uniform(nearest, 2.8, angles.shape)
    return distance[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def motions(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(-1, 1, (count, 3)) * [0.04, 0.04, 0.15]


@pytest.mark.parametrize("count", [1, 3])
def test_objects_apart_are_seen_as_by_the_simulator(count: int) -> None:
    rng = np.random.default_rng(count)
    first = rng.uniform(0, 2 * np.pi, (500, 1))
    # Far enough apart that no bin shows two of them.
    angles = first + np.arange(count) * 2 * np.pi / count
    objects, motion = around(rng, angles, 0.3), motions(rng, 500)
    rings = seen(objects, np.zeros((500, 3)))
    after = seen(objects, motion)
    np.testing.assert_allclose(predicted(rings, motion), after, atol=2e-5)
    assert np.abs(after - rings).max() > 0.1


def test_what_is_shown_of_single_objects_is_the_ring_and_nothing_moves_by_itself() -> None:
    rng = np.random.default_rng(0)
    rings = seen(around(rng, rng.uniform(0, 2 * np.pi, (50, 1)), 0.1), np.zeros((50, 3)))
    change, shown = moved(jnp.asarray(rings)[..., None], jnp.array([REACH]), jnp.zeros((50, 3)))
    np.testing.assert_allclose(shown[..., 0], rings, atol=1e-6)
    np.testing.assert_allclose(change, 0.0, atol=1e-6)


def test_a_turn_by_a_bin_shifts_the_ring_by_one() -> None:
    ring = np.zeros(BINS)
    ring[[4, 5, 6]] = 0.3, 0.9, 0.6
    turned = predicted(ring, np.array([0.0, 0.0, WIDTH]))
    np.testing.assert_allclose(turned, np.roll(ring, -1), atol=1e-6)


def test_an_object_ahead_comes_closer_by_hand() -> None:
    ring = np.zeros(BINS)
    ring[[BINS - 1, 0]] = 0.5, 0.5
    # At 1.5 m on the border of the last and the first bin, 0.3 m closer: 1.2 m of 3 m.
    ahead = predicted(ring, np.array([0.3, 0.0, 0.0]))
    np.testing.assert_allclose(ahead[[BINS - 1, 0]], 0.6, atol=1e-6)
    np.testing.assert_allclose(ahead[1 : BINS - 1], 0.0, atol=1e-6)


def test_an_object_beyond_the_reach_disappears_and_an_empty_ring_stays_empty() -> None:
    ring = seen(np.array([[[2.99, 0.1]]]), np.zeros((1, 3)))
    assert ring.max() > 0.002
    np.testing.assert_allclose(predicted(ring, np.array([[-0.1, 0.0, 0.0]])), 0.0, atol=1e-6)
    np.testing.assert_array_equal(predicted(np.zeros(BINS), np.array([0.1, 0.1, 0.1])), 0.0)


def test_rings_have_their_own_reach() -> None:
    ring = np.zeros((BINS, 2))
    ring[0] = 0.5
    change, _ = moved(jnp.asarray(ring), jnp.array([3.0, 6.0]), jnp.array([0.3, 0.0, 0.0]))
    middle = np.cos(WIDTH / 2)
    far = [np.hypot(d - 0.3 * middle, 0.3 * np.sin(WIDTH / 2)) for d in (1.5, 3.0)]
    expected = [1 - far[0] / 3 - 0.5, 1 - far[1] / 6 - 0.5]
    np.testing.assert_allclose(change[0], expected, atol=1e-6)


def test_gradients_are_finite_even_for_an_object_that_is_run_over() -> None:
    rng = np.random.default_rng(1)
    rings = rng.uniform(0, 1, (20, BINS, 1))
    rings[0] = 1.0
    rings[1] = 0.0
    rings[2, 3] = 1.0

    def total(rings: jax.Array, motion: jax.Array) -> jax.Array:
        change, shown = moved(rings, jnp.array([REACH]), motion)
        return jnp.sum(jnp.sin(change)) + jnp.sum(jnp.sin(shown))

    for motion in (np.zeros((20, 3)), motions(rng, 20)):
        for part in jax.grad(total, (0, 1))(jnp.asarray(rings), jnp.asarray(motion)):
            assert np.all(np.isfinite(part))


def test_the_motion_is_found_by_gradients_from_what_the_ring_shows() -> None:
    rng = np.random.default_rng(2)
    angles = rng.uniform(0, 2 * np.pi, (64, 1)) + np.arange(3) * 2 * np.pi / 3
    objects, true = around(rng, angles, 0.5), np.array([0.03, -0.02, 0.06])
    rings, after = (seen(objects, np.tile(m, (64, 1))) for m in (np.zeros(3), true))

    def loss(motion: jax.Array) -> jax.Array:
        change, _ = moved(
            jnp.asarray(rings)[..., None], jnp.array([REACH]), jnp.broadcast_to(motion, (64, 3))
        )
        return jnp.mean(jnp.square(change[..., 0] - (after - rings)))

    def step(motion: jax.Array, _: None) -> tuple[jax.Array, None]:
        return motion - jnp.array([1.0, 1.0, 0.1]) * jax.grad(loss)(motion), None

    found, _ = jax.lax.scan(step, jnp.zeros(3), None, length=400)
    np.testing.assert_allclose(found, true, atol=1e-3)
