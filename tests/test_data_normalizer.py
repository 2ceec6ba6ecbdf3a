import jax
import jax.numpy as jnp
import numpy as np
from data_toys import make_episode

from proco_jax.data import normalizer
from proco_jax.data.logs import to_dataset
from proco_jax.data.normalizer import Normalizer
from proco_jax.observation import Field, ObservationSpec

SPEC = ObservationSpec(
    (
        Field("speed", 3, "vector", "m/s", "How fast."),
        Field("ring", 4, "ring", "closeness in [0, 1]", "How near.", reach=3.0),
        Field("height", 1, "flat", "m", "How high."),
    )
)


def dataset():
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(13, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)
    obs[:, 2] = 9.81
    return to_dataset([make_episode(size=8)._replace(obs=obs)])


def test_scaled_logs_have_mean_zero_and_deviation_one():
    data = dataset()
    scaled = np.asarray(Normalizer.fit(data).normalize(data.obs))
    changing = [0, 1, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(scaled.mean(axis=0)[changing], 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=0)[changing], 1, rtol=1e-5)


def test_a_dimension_that_never_changes_is_masked_and_never_divided_by():
    data = dataset()
    scale = Normalizer.fit(data)
    np.testing.assert_array_equal(scale.mask, [1, 1, 0, 1, 1, 1, 1, 1])
    assert scale.std[2] == 1
    np.testing.assert_array_equal(np.asarray(scale.normalize(data.obs + 5))[:, 2], 0)
    # So does one that only rounding moves.
    data.obs[:, 2] += np.linspace(0, 1e-6, 13, dtype=np.float32)
    assert Normalizer.fit(data).mask[2] == 0


def test_denormalize_undoes_normalize():
    data = dataset()
    for spec in (None, SPEC):
        scale = Normalizer.fit(data, spec)
        np.testing.assert_allclose(
            scale.denormalize(scale.normalize(data.obs)), data.obs, rtol=1e-4, atol=1e-4
        )


def test_with_a_description_scaling_and_turning_commute():
    data = dataset()
    scale = Normalizer.fit(data, SPEC)
    turned = data.obs.copy()
    turned[:, 0], turned[:, 1] = -data.obs[:, 1], data.obs[:, 0]
    turned[:, 3:7] = np.roll(data.obs[:, 3:7], 1, axis=1)
    plain, after = scale.normalize(data.obs), np.asarray(scale.normalize(turned))
    np.testing.assert_allclose(after[:, 0], -plain[:, 1], rtol=1e-6)
    np.testing.assert_allclose(after[:, 1], plain[:, 0], rtol=1e-6)
    np.testing.assert_allclose(after[:, 3:7], np.roll(plain[:, 3:7], 1, axis=1), rtol=1e-6)


def test_any_leading_shape_and_jax_give_the_same():
    data = dataset()
    scale = Normalizer.fit(data)
    batch = np.asarray(scale.normalize(data.obs))
    np.testing.assert_array_equal(scale.normalize(data.obs[3]), batch[3])
    on_device = jax.jit(Normalizer.normalize)(scale, jnp.asarray(data.obs)[None])
    np.testing.assert_allclose(on_device[0], batch, rtol=1e-5, atol=1e-6)


def test_blocks_give_the_moments_of_the_whole(monkeypatch):
    data = dataset()
    whole = Normalizer.fit(data)
    monkeypatch.setattr(normalizer, "ROWS", 4)
    parts = Normalizer.fit(data)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(parts.std, whole.std, rtol=1e-6)
