import numpy as np
import pytest
from core_toys import BINS, SPEC

from proco_jax.models.normalizer import CLIP, Normalizer, fit_normalizer
from proco_jax.observation import Field, ObservationSpec


def draw(rows: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    obs = rng.normal(2.0, 3.0, (rows, SPEC.size)).astype(np.float32)
    for f in SPEC.rings:
        obs[:, SPEC.slices[f.name]] = rng.uniform(size=(rows, f.size))
    obs[:, SPEC.slices["battery"]] = 12.0
    return obs


def test_flat_numbers_are_standardized_by_hand():
    spec = ObservationSpec((Field("x", 1, "flat", "m", "A number."),))
    normalizer = fit_normalizer(spec, np.array([[1.0], [3.0]], np.float32))
    # Mean 2, standard deviation 1.
    np.testing.assert_allclose(normalizer(np.array([[5.0], [1.0]])), [[3.0], [-1.0]])


def test_planar_vector_has_one_factor_and_keeps_its_origin():
    spec = ObservationSpec((Field("v", 2, "vector", "m/s", "Velocity."),))
    normalizer = fit_normalizer(spec, np.array([[3.0, 0.0], [-3.0, 4.0]], np.float32))
    # Root mean square of 3, 3, 0, 4.
    size = np.sqrt(34 / 4)
    np.testing.assert_allclose(normalizer.factor, 1 / size, rtol=1e-6)
    np.testing.assert_array_equal(normalizer(np.zeros(2, np.float32)), 0.0)


def test_rings_are_not_changed():
    obs = draw()
    normalized = fit_normalizer(SPEC, obs)(obs)
    for f in SPEC.rings:
        where = SPEC.slices[f.name]
        np.testing.assert_array_equal(normalized[:, where], obs[:, where])


def test_dimensions_constant_in_the_logs_are_zero_even_if_they_change_later():
    normalizer = fit_normalizer(SPEC, draw())
    where = SPEC.slices["battery"]
    np.testing.assert_array_equal(normalizer.factor[where], 0.0)
    assert not normalizer.varies[where].any() and normalizer.varies.sum() == SPEC.size - 1
    np.testing.assert_array_equal(normalizer(np.full(SPEC.size, 99.0, np.float32))[where], 0.0)


def test_rotation_of_a_planar_vector_commutes_with_normalization():
    obs = draw()
    normalizer = fit_normalizer(SPEC, obs)
    cos, sin = np.cos(2 * np.pi / BINS), np.sin(2 * np.pi / BINS)
    turn = np.array([[cos, -sin], [sin, cos]], np.float32)
    planar = slice(SPEC.slices["velocity"].start, SPEC.slices["velocity"].start + 2)
    near = obs[np.abs(obs[:, planar]).max(axis=1) < 5]
    turned = near.copy()
    turned[:, planar] = near[:, planar] @ turn.T
    expected = np.asarray(normalizer(near))[:, planar] @ turn.T
    np.testing.assert_allclose(np.asarray(normalizer(turned))[:, planar], expected, atol=1e-5)


def test_batched_equals_per_row():
    obs = draw(20)
    normalizer = fit_normalizer(SPEC, obs)
    np.testing.assert_array_equal(normalizer(obs), np.stack([normalizer(row) for row in obs]))


def test_spikes_are_clipped():
    normalizer = Normalizer(np.zeros(1, np.float32), np.ones(1, np.float32))
    np.testing.assert_array_equal(normalizer(np.array([[1e9], [-1e9]])), [[CLIP], [-CLIP]])


def test_observations_of_another_shape_are_rejected():
    found = rf"found shape \(5, {SPEC.size + 1}\), expected \[M, {SPEC.size}\]"
    with pytest.raises(ValueError, match=found):
        fit_normalizer(SPEC, np.zeros((5, SPEC.size + 1), np.float32))
    with pytest.raises(ValueError, match="expected"):
        fit_normalizer(SPEC, np.zeros(SPEC.size, np.float32))
