"""A diffusion policy: actions by a few steps of denoising (DDPM, Ho et al. 2020).

The network predicts the noise in a noisy action (IDQL, Hansen-Estruch et al. 2023, whose
architecture FISOR uses). An action begins as noise and is denoised in T steps, which can represent
several modes, e.g. passing an obstacle on either side, where a Gaussian averages them.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.models.networks import Encoder, dropout
from proco_jax.types import Array

# Noise rates of the variance-preserving schedule at its start and end.
_LOWEST, _HIGHEST = 0.1, 10.0


class Schedule(NamedTuple):
    """How much signal is kept; T numbers each, the first for the least noise.

    Attributes:
      alpha: `[T]` share of the variance kept by each step of noising.
      kept: `[T]` share kept by all steps up to each, the cumulative product.
    """

    alpha: Array
    kept: Array


class DenoisingNetwork(nn.Module):
    """The noise in noisy actions, from observations, those actions, and the step of the noising.

    Attributes:
      encoder: of observations.
      actions: A.
      width: of the residual blocks.
      blocks: residual blocks, each with a layer norm and a hidden layer of four times the width.
      time_features: width of the encoding of the step.
    """

    encoder: Encoder
    actions: int
    width: int
    blocks: int
    time_features: int

    def setup(self) -> None:
        """The layers; `Fourier` features of the step have learned frequencies."""
        half = self.time_features // 2
        self.frequency = self.param("frequency", nn.initializers.normal(0.2), (half,))
        self.of_time = [nn.Dense(self.time_features) for _ in range(2)]
        self.enter = nn.Dense(self.width)
        self.norm = [nn.LayerNorm() for _ in range(self.blocks)]
        self.widen = [nn.Dense(4 * self.width) for _ in range(self.blocks)]
        self.narrow = [nn.Dense(self.width) for _ in range(self.blocks)]
        self.leave = nn.Dense(self.actions)

    def __call__(
        self, obs: jax.Array, action: jax.Array, step: jax.Array, rate: Array | float = 0.0
    ) -> jax.Array:
        """Noise `[..., A]` of obs `[..., O]`, noisy actions `[..., A]` and steps `[...]`.

        Args:
          rate: of dropout, which happens only with a random stream named `dropout`.
        """
        return self.noise(self.encode(obs), action, step, rate)

    def encode(self, obs: jax.Array) -> jax.Array:
        """Features `[..., F]`, which all steps of the denoising share."""
        return self.encoder(obs, obs[..., :0])

    def noise(
        self, features: jax.Array, action: jax.Array, step: jax.Array, rate: Array | float = 0.0
    ) -> jax.Array:
        """Noise `[..., A]` in noisy actions `[..., A]`."""
        angle = 2.0 * np.pi * step[..., None].astype(jnp.float32) * self.frequency
        time = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        time = self.of_time[1](nn.silu(self.of_time[0](time)))
        x = self.enter(jnp.concatenate([action, features, time], axis=-1))
        for norm, widen, narrow in zip(self.norm, self.widen, self.narrow, strict=True):
            x = x + narrow(nn.silu(widen(norm(dropout(self, x, rate)))))
        return self.leave(nn.silu(x))


def variance_preserving_schedule(steps: int) -> Schedule:
    """The schedule of T steps.

    Source: Xiao et al. 2022; the same numbers as in IDQL's and FISOR's code.
    """
    t = np.arange(1, steps + 1)
    exponent = -_LOWEST / steps - 0.5 * (_HIGHEST - _LOWEST) * (2 * t - 1) / steps**2
    alpha = np.exp(exponent)
    return Schedule(alpha.astype(np.float32), np.cumprod(alpha).astype(np.float32))


def denoising_loss(
    net: DenoisingNetwork,
    schedule: Schedule,
    params: Any,
    obs: Array,
    action: Array,
    key: Array,
    rate: Array | float = 0.0,
) -> jax.Array:
    """Squared error `[B]` of the noise predicted in actions noised to a random step.

    Args:
      obs: `[B, O]` normalized.
      action: `[B, A]`.
      rate: of dropout.

    Source: DDPM (Ho et al. 2020), equation 14.
    """
    step_key, noise_key, dropout_key = jax.random.split(key, 3)
    step = jax.random.randint(step_key, action.shape[:1], 0, schedule.alpha.shape[0])
    noise = jax.random.normal(noise_key, action.shape)
    noisy = noised(schedule, action, noise, step)
    rngs = {"dropout": dropout_key}
    found: Any = net.apply(params, obs, noisy, step, rate, rngs=rngs)
    return jnp.sum(jnp.square(found - noise), axis=-1)


def noised(schedule: Schedule, action: Array, noise: Array, step: Array) -> jax.Array:
    """Actions `[B, A]` after so many steps of noising `[B]`, counted from 0."""
    kept = jnp.asarray(schedule.kept)[step][:, None]
    return jnp.sqrt(kept) * action + jnp.sqrt(1.0 - kept) * noise


def sample_diffusion(
    net: DenoisingNetwork, schedule: Schedule, params: Any, obs: Array, key: Array, n: int
) -> jax.Array:
    """Actions `[n, A]` in one normalized state `[O]`, clipped to [-1, 1] after every step.

    Source: DDPM (Ho et al. 2020), algorithm 2.
    """
    start_key, walk_key = jax.random.split(key)
    encoded: Any = net.apply(params, obs, method="encode")
    features = jnp.broadcast_to(encoded, (n, *encoded.shape))
    total = schedule.alpha.shape[0]
    alpha, kept = jnp.asarray(schedule.alpha), jnp.asarray(schedule.kept)

    def denoise(action: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        step, step_key = inputs
        steps = jnp.full(n, step)
        noise: Any = net.apply(params, features, action, steps, method="noise")
        mean = action - (1.0 - alpha[step]) / jnp.sqrt(1.0 - kept[step]) * noise
        fresh = jax.random.normal(step_key, action.shape)
        spread = jnp.where(step > 0, jnp.sqrt(1.0 - alpha[step]), 0.0)
        return jnp.clip(mean / jnp.sqrt(alpha[step]) + spread * fresh, -1.0, 1.0), None

    start = jax.random.normal(start_key, (n, net.actions))
    order = jnp.arange(total - 1, -1, -1)
    return jax.lax.scan(denoise, start, (order, jax.random.split(walk_key, total)))[0]
