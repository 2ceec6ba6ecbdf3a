"""A conditional VAE of actions: what the logs do in a state.

Sources: Kingma and Welling 2014; Sohn et al. 2015; form and constants as in BCQ (Fujimoto et al.
2019). Decoded actions are given before the tanh that maps them to [-1, 1].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from proco_jax.models.losses import weighted_mean
from proco_jax.models.networks import Encoder, Heads, apply, with_saturation
from proco_jax.types import Array

# Latents per action dimension, and the range to which they are clipped when actions are sampled:
# nearer to 0, decoded actions are more frequent in the logs.
LATENTS, LATENT_RANGE = 2, 0.5
LOG_STD_RANGE = (-4.0, 15.0)


class Posterior(nn.Module):
    """Normalized observations and actions to mean and log std of the latent, `[..., latents]`."""

    encoder: Encoder
    hidden: Sequence[int]
    latents: int

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = self.encoder(obs, with_saturation(action))
        out = Heads(self.hidden, 1, 2 * self.latents)(features)[..., 0, :]
        mean, log_std = jnp.split(out, 2, axis=-1)
        return mean, jnp.clip(log_std, *LOG_STD_RANGE)


class Decoder(nn.Module):
    """Normalized observations and latents to actions before the tanh, `[..., A]`."""

    encoder: Encoder
    hidden: Sequence[int]
    actions: int

    @nn.compact
    def __call__(self, obs: jax.Array, latent: jax.Array) -> jax.Array:
        features = self.encoder(obs, latent)
        return Heads(self.hidden, 1, self.actions)(features)[..., 0, :]


class Networks(NamedTuple):
    """Posterior of the latent, and decoder; their parameters have the same two names."""

    posterior: Posterior
    decoder: Decoder


def make_networks(encoder: Encoder, hidden: Sequence[int], actions: int) -> Networks:
    """The networks of a VAE for actions `[A]`."""
    latents = LATENTS * actions
    return Networks(Posterior(encoder, hidden, latents), Decoder(encoder, hidden, actions))


def init(nets: Networks, key: Array) -> dict[str, Any]:
    """Fresh parameters."""
    posterior_key, decoder_key = jax.random.split(key)
    obs = jnp.zeros(nets.decoder.encoder.spec.size)
    action, latent = jnp.zeros(nets.decoder.actions), jnp.zeros(nets.posterior.latents)
    return {
        "posterior": nets.posterior.init(posterior_key, obs, action),
        "decoder": nets.decoder.init(decoder_key, obs, latent),
    }


def loss(
    nets: Networks, params: Any, obs: Array, action: Array, weight: Array, key: Array, beta: Array
) -> jax.Array:
    """Squared reconstruction error plus `beta` times the KL divergence, both means over dimensions.

    Args:
      obs: `[B, O]` normalized.
      action: `[B, A]`.
      weight: `[B]` of rows in the mean.
    """
    mean, log_std = apply(nets.posterior, params["posterior"], obs, action)
    latent = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    decoded = jnp.tanh(apply(nets.decoder, params["decoder"], obs, latent))
    error = jnp.mean(jnp.square(decoded - action), axis=-1)
    return weighted_mean(error + beta * jnp.mean(_divergence(mean, log_std), axis=-1), weight)


def sample(nets: Networks, params: Any, obs: Array, key: Array, n: int) -> jax.Array:
    """n actions before the tanh, `[..., n, A]`, for each observation `[..., O]`."""
    repeated = jnp.broadcast_to(obs[..., None, :], (*obs.shape[:-1], n, obs.shape[-1]))
    latent = jax.random.normal(key, (*repeated.shape[:-1], nets.posterior.latents))
    latent = jnp.clip(latent, -LATENT_RANGE, LATENT_RANGE)
    return apply(nets.decoder, params["decoder"], repeated, latent)


def divergence(nets: Networks, params: Any, obs: Array, action: Array) -> jax.Array:
    """KL divergence of posterior and prior, summed over the latent; large for rare actions.

    Args:
      obs: `[..., O]` normalized.
      action: `[..., A]`.

    Returns:
      `[...]`.
    """
    return jnp.sum(_divergence(*apply(nets.posterior, params["posterior"], obs, action)), axis=-1)


def _divergence(mean: Array, log_std: Array) -> jax.Array:
    """KL divergence of N(mean, std^2) from N(0, 1), elementwise."""
    return 0.5 * (jnp.square(mean) + jnp.exp(2.0 * log_std) - 1.0) - log_std
