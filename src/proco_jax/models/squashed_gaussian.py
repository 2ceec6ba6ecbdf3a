"""A Gaussian policy squashed by a tanh (Haarnoja et al. 2018), for actors that follow critics."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from proco_jax.models.networks import Encoder, Heads, apply
from proco_jax.types import Array

LOG_STD_RANGE = (-20.0, 2.0)


class SquashedGaussian(nn.Module):
    """Mean and log std of the action before the tanh, each `[..., A]`."""

    encoder: Encoder
    hidden: Sequence[int]
    actions: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = self.encoder(obs, obs[..., :0])
        out = Heads(self.hidden, 1, 2 * self.actions)(features)[..., 0, :]
        mean, log_std = jnp.split(out, 2, axis=-1)
        return mean, jnp.clip(log_std, *LOG_STD_RANGE)


def sample(net: SquashedGaussian, params: Any, obs: Array, key: Array, n: int) -> jax.Array:
    """n samples before the tanh, `[..., n, A]`, for each normalized observation `[..., O]`.

    The parameters' gradient passes through them.
    """
    mean, log_std = apply(net, params, obs)
    noise = jax.random.normal(key, (*mean.shape[:-1], n, mean.shape[-1]))
    return mean[..., None, :] + jnp.exp(log_std)[..., None, :] * noise


def mean_action(net: SquashedGaussian, params: Any, obs: Array) -> jax.Array:
    """The tanh of the mean, `[..., A]`."""
    return jnp.tanh(apply(net, params, obs)[0])
