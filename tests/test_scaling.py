import numpy as np
import pytest
from core_toys import BINS, SPEC

from proco_jax.models.normalizer import CLIP, Scale, fit_scale
from proco_jax.observation import Field, ObservationSpec


def draw(rows: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    obs = rng.normal(2.0, 3.0, (rows, SPEC.size)).astype(np.float32)
    for f in SPEC.rings:
        obs[:, SPEC.slices[f.name]] = rng.uniform(size=(rows, f.size))
    obs[:, SPEC.slices["battery"]] = 12.0
    return obs


def test_flat_numbers_are_standardised_by_hand():
    spec = ObservationSpec((Field("x", 1, "flat", "m", "A number."),))
    scale = fit_scale(spec, np.array([[1.0], [3.0]], np.float32))
    # Mean 2, standard deviation 1.
    np.testing.assert_allclose(scale(np.array([[5.0], [1.0]])), [[3.0], [-1.0]])


def test_planar_vector_has_one_size_and_keeps_its_origin():
    spec = ObservationSpec((Field("v", 2, "vector", "m/s", "Velocity."),))
    scale = fit_scale(spec, np.array([[3.0, 0.0], [-3.0, 4.0]], np.float32))
    # Root mean square of 3, 3, 0, 4.
    size = np.sqrt(34 / 4)
    np.testing.assert_allclose(scale.factor, 1 / size, rtol=1e-6)
    np.testing.assert_array_equal(scale(np.zeros(2, np.float32)), 0.0)


def test_rings_stay_closeness():
    obs = draw()
    scaled = fit_scale(SPEC, obs)(obs)
    for f in SPEC.rings:
        where = SPEC.slices[f.name]
        np.testing.assert_array_equal(scaled[:, where], obs[:, where])


def test_constant_dimensions_are_silenced_even_where_they_later_change():
    scale = fit_scale(SPEC, draw())
    where = SPEC.slices["battery"]
    np.testing.assert_array_equal(scale.factor[where], 0.0)
    assert not scale.varies[where].any() and scale.varies.sum() == SPEC.size - 1
    np.testing.assert_array_equal(scale(np.full(SPEC.size, 99.0, np.float32))[where], 0.0)


def test_turning_a_planar_vector_commutes_with_scaling_it():
    obs = draw()
    scale = fit_scale(SPEC, obs)
    cos, sin = np.cos(2 * np.pi / BINS), np.sin(2 * np.pi / BINS)
    turn = np.array([[cos, -sin], [sin, cos]], np.float32)
    planar = slice(SPEC.slices["velocity"].start, SPEC.slices["velocity"].start + 2)
    near = obs[np.abs(obs[:, planar]).max(axis=1) < 5]
    turned = near.copy()
    turned[:, planar] = near[:, planar] @ turn.T
    expected = np.asarray(scale(near))[:, planar] @ turn.T
    np.testing.assert_allclose(np.asarray(scale(turned))[:, planar], expected, atol=1e-5)


def test_batched_equals_per_row():
    obs = draw(20)
    scale = fit_scale(SPEC, obs)
    np.testing.assert_array_equal(scale(obs), np.stack([scale(row) for row in obs]))


def test_spikes_are_clipped():
    scale = Scale(np.zeros(1, np.float32), np.ones(1, np.float32))
    np.testing.assert_array_equal(scale(np.array([[1e9], [-1e9]])), [[CLIP], [-CLIP]])


def test_observations_of_another_size_are_refused():
    with pytest.raises(ValueError, match="do not fit a description of size"):
        fit_scale(SPEC, np.zeros((5, SPEC.size + 1), np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        fit_scale(SPEC, np.zeros(SPEC.size, np.float32))
