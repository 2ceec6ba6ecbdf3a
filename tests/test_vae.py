import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core_toys import drawn_params
from value_toys import NUMBERS, SIZE, Known, nonzero

from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.config.schema import EncoderConfig
from proco_jax.models import squashed_gaussian, vae
from proco_jax.models.networks import make_encoder
from proco_jax.models.squashed_gaussian import SquashedGaussian

ENCODER = make_encoder(EncoderConfig(rings=False, features=8), NUMBERS)
NETS = vae.make_networks(ENCODER, (8,), 1)
ONE = jnp.float32(1.0)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda k: vae.init(NETS, k))(jax.random.key(0))


def known(mean: float, log_std: float, decoded: float) -> vae.Networks:
    """A VAE of one action with two latents, whose networks are constants."""

    def posterior(obs, action):
        shape = (*obs.shape[:-1], 2)
        return jnp.full(shape, mean), jnp.full(shape, log_std)

    def decoder(obs, latent):
        return jnp.full((*obs.shape[:-1], 1), decoded)

    return vae.Networks(Known(posterior), Known(decoder))  # pyright: ignore


def test_loss_by_hand():
    # tanh(0) = 0 misses 0.5 by a square of 0.25; KL of N(2, 1) from N(0, 1) is 2 per dimension.
    nets, empty = known(2.0, 0.0, 0.0), {"posterior": None, "decoder": None}
    obs, action = jnp.zeros((2, SIZE)), jnp.array([[0.5], [99.0]])
    weight, beta = jnp.array([1.0, 0.0]), jnp.float32(0.5)
    found = vae.loss(nets, empty, obs, action, weight, jax.random.key(0), beta)
    assert float(found) == pytest.approx(0.25 + 0.5 * 2.0)
    total = vae.divergence(nets, empty, obs, action)
    np.testing.assert_allclose(total, 4.0)
    # A narrower posterior: 0.5 (s^2 - 1) - log s, twice.
    narrow = vae.divergence(known(0.0, -1.0, 0.0), empty, obs, action)
    np.testing.assert_allclose(narrow, np.exp(-2.0) - 1.0 + 2.0, rtol=1e-5)


@pytest.mark.slow
def test_log_std_stays_in_range(params):
    wide = jax.tree.map(lambda x: 1e3 * x, params)
    obs = jax.random.normal(jax.random.key(1), (8, SIZE))
    log_std = NETS.posterior.apply(wide["posterior"], obs, jnp.ones((8, 1)))[1]
    low, high = vae.LOG_STD_RANGE
    assert low <= float(log_std.min()) and float(log_std.max()) <= high  # pyright: ignore


@pytest.mark.slow
def test_samples_vary_within_the_clipped_latent(params):
    obs = jnp.zeros((3, SIZE))
    found = vae.sample(NETS, params, obs, jax.random.key(2), 64)
    assert found.shape == (3, 64, 1)
    assert np.all(np.asarray(found).std(axis=1) > 0)
    axis = jnp.linspace(-vae.LATENT_RANGE, vae.LATENT_RANGE, 21)
    latents = jnp.stack(jnp.meshgrid(axis, axis), -1)
    all_obs = jnp.zeros((21, 21, SIZE))
    reached = NETS.decoder.apply(params["decoder"], all_obs, latents)
    assert float(found.min()) >= float(reached.min()) - 1e-2  # pyright: ignore
    assert float(found.max()) <= float(reached.max()) + 1e-2  # pyright: ignore


def test_both_parts_learn_from_the_loss(params):
    obs, action = jnp.ones((4, SIZE)), jnp.full((4, 1), 0.3)
    gradient = jax.jit(jax.grad(lambda p, k: vae.loss(NETS, p, obs, action, jnp.ones(4), k, ONE)))
    found = gradient(params, jax.random.key(3))
    assert nonzero(found["posterior"]) and nonzero(found["decoder"])


@pytest.mark.slow
def test_the_vae_tells_frequent_from_rare_actions(params):
    """Logged: action x_0 with a little noise. Samples are near; the opposite has a large KL."""

    @jax.jit
    def learn(params, key):
        def step(inner, key):
            own, adam = inner
            obs_key, noise_key, loss_key = jax.random.split(key, 3)
            obs = jax.random.uniform(obs_key, (64, SIZE), minval=-0.8, maxval=0.8)
            action = obs[:, :1] + 0.05 * jax.random.normal(noise_key, (64, 1))

            def loss(p):
                args = (obs, action, jnp.ones(64), loss_key, jnp.float32(0.1))
                return vae.loss(NETS, p, *args), None

            own, adam, _ = gradient_step(loss, own, adam, jnp.float32(3e-3))
            return (own, adam), None

        start = (params, optax.scale_by_adam().init(params))
        return jax.lax.scan(step, start, jax.random.split(key, 1000))[0][0]

    learned = learn(params, jax.random.key(4))
    obs = jnp.zeros((9, SIZE)).at[:, 0].set(jnp.linspace(-0.7, 0.7, 9))
    sampled = jnp.tanh(vae.sample(NETS, learned, obs, jax.random.key(5), 32))[..., 0]
    np.testing.assert_allclose(sampled.mean(axis=1), obs[:, 0], atol=0.12)
    # Not where both are almost the same action.
    far = jnp.abs(obs[:, 0]) > 0.4
    usual = vae.divergence(NETS, learned, obs, obs[:, :1])
    rare = vae.divergence(NETS, learned, obs, -obs[:, :1])
    assert np.all(np.asarray(rare - usual)[far] > 0)


@pytest.mark.slow
def test_squashed_gaussian_samples_and_mean():
    net = SquashedGaussian(ENCODER, (8,), 2)
    own = drawn_params(net, 1, jnp.zeros(SIZE))
    obs = jnp.ones((3, SIZE))
    mean, log_std = net.apply(own, obs)  # pyright: ignore
    found = squashed_gaussian.sample(net, own, obs, jax.random.key(6), 4000)
    assert found.shape == (3, 4000, 2)
    deviations = np.exp(np.asarray(log_std))
    np.testing.assert_allclose(found.mean(axis=1), mean, atol=0.08 * deviations.max())
    np.testing.assert_allclose(found.std(axis=1), deviations, rtol=0.08)
    np.testing.assert_allclose(squashed_gaussian.mean_action(net, own, obs), jnp.tanh(mean))
    one = squashed_gaussian.sample(net, own, obs[0], jax.random.key(6), 2)
    assert one.shape == (2, 2)


@pytest.mark.slow
def test_squashed_gaussian_gradient_passes_samples_and_std_is_bounded():
    net = SquashedGaussian(ENCODER, (8,), 2)
    own, obs = drawn_params(net, 1, jnp.zeros(SIZE)), jnp.ones((3, SIZE))
    gradient = jax.grad(
        lambda p, k: jnp.sum(jnp.square(squashed_gaussian.sample(net, p, obs, k, 2)))
    )
    assert nonzero(gradient(own, jax.random.key(7)))
    low, high = squashed_gaussian.LOG_STD_RANGE
    wide = jax.tree.map(lambda x: 1e3 * x, own)
    found = np.asarray(net.apply(wide, obs)[1])  # pyright: ignore
    assert low <= found.min() and found.max() <= high
