"""Networks. Every one reads observations through the same encoder.

The encoder is built from the description of the observation: the bins of a
ring share one network, in which each bin sees its neighbours, the vectors that
turn with the agent rotated into the bin's own frame, the heading, and all other
sensors. A sensor that turns with the agent is so learned once, not once a bin.
Observations come in scaled, see `scaling.Scale`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.observation import ObservationSpec

# An actuator that saturates at 1 / SATURATION of its range is seen to do so.
SATURATION = 30.0


def apply(net: nn.Module, params: Any, *inputs: jax.Array) -> Any:
    """What a network gives for these parameters and inputs."""
    return net.apply(params, *inputs)


def ring_sizes(spec: ObservationSpec) -> tuple[int, ...]:
    """The different numbers of bins among the rings."""
    return tuple(dict.fromkeys(f.size for f in spec.rings))


def take_rings(spec: ObservationSpec, obs: jax.Array, bins: int) -> jax.Array:
    """The rings of one size: `[..., O]` to `[..., n, R]`."""
    return jnp.stack([obs[..., spec.slices[f.name]] for f in spec.rings if f.size == bins], -1)


def take_sensors(spec: ObservationSpec, obs: jax.Array) -> jax.Array:
    """Everything that belongs to no ring, in order."""
    parts = [obs[..., spec.slices[f.name]] for f in spec.fields if f.kind != "ring"]
    return jnp.concatenate(parts, axis=-1) if parts else obs[..., :0]


def take_planar(spec: ObservationSpec, obs: jax.Array) -> jax.Array:
    """x and y of the vectors that turn with the agent: `[..., K, 2]`."""
    starts = [spec.slices[f.name].start for f in spec.fields if f.kind == "vector"]
    if not starts:
        return jnp.zeros((*obs.shape[:-1], 0, 2), obs.dtype)
    return jnp.stack([obs[..., start : start + 2] for start in starts], axis=-2)


def into_bin_frames(vectors: jax.Array, bins: int) -> jax.Array:
    """Planar vectors as seen from the middle of each bin.

    Args:
      vectors: `[..., K, 2]` x and y in the agent's frame.
      bins: n, the bins of the ring.

    Returns:
      `[..., n, 2 K]`: the components along the bin's direction, then those to
      its left.
    """
    angle = 2.0 * np.pi * (np.arange(bins) + 0.5) / bins
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = vectors[..., None, :, 0], vectors[..., None, :, 1]
    return jnp.concatenate([cos * x + sin * y, cos * y - sin * x], axis=-1)


def with_neighbours(bins: jax.Array, neighbours: int) -> jax.Array:
    """Each bin beside its neighbours: `[..., n, R]` to `[..., n, R (2k + 1)]`."""
    shifts = range(-neighbours, neighbours + 1)
    return jnp.concatenate([jnp.roll(bins, -shift, axis=-2) for shift in shifts], axis=-1)


def with_near_range(rings: jax.Array) -> jax.Array:
    """Closeness beside its 8th power: `[..., n, R]` to `[..., n, 2 R]`.

    Closeness c is linear in the distance over the whole reach, so the last
    centimetres, where safety is decided, are a sliver of its range. c^8 gives
    them four times the slope and is flat far away.
    """
    return jnp.concatenate([rings, rings**8], axis=-1)


def with_saturation(action: jax.Array) -> jax.Array:
    """Actions, and behind them tanh(SATURATION a): `[..., A]` to `[..., 2 A]`.

    Actuators often give all their force at a small part of the action's range
    (MuJoCo clips a Point's at 0.05 and a Car's at 0.02), so the sign of an
    action tells more than its size.
    """
    return jnp.concatenate([action, jnp.tanh(SATURATION * action)], axis=-1)


class BinNetwork(nn.Module):
    """One network shared over the bins of all rings of one size.

    Maps scaled observations `[..., O]` and further inputs `[..., X]` to
    features `[..., n, hidden[-1]]`.

    Attributes:
      gated: what a bin sees of the rings is multiplied with what all bins share,
        smoothly: a change is a speed times a slope, and a sum of the two must
        first learn to multiply.
    """

    spec: ObservationSpec
    bins: int
    hidden: Sequence[int]
    neighbours: int
    gated: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, extra: jax.Array) -> jax.Array:
        activation = nn.swish if self.gated else nn.relu
        rings = with_near_range(take_rings(self.spec, obs, self.bins))
        planar = take_planar(self.spec, obs)
        forward = jnp.broadcast_to(jnp.array([1.0, 0.0]), (*planar.shape[:-2], 1, 2))
        turned = into_bin_frames(jnp.concatenate([forward, planar], axis=-2), self.bins)
        local = jnp.concatenate([with_neighbours(rings, self.neighbours), turned], axis=-1)
        sensors = jnp.concatenate([take_sensors(self.spec, obs), extra], axis=-1)
        # What all bins share is multiplied once, not once a bin.
        x = nn.Dense(self.hidden[0])(local)
        x = x + nn.Dense(self.hidden[0], use_bias=False)(sensors)[..., None, :]
        x = activation(x)
        if self.gated:
            shared = nn.swish(nn.Dense(self.hidden[0])(sensors))
            x = x * (1.0 + nn.Dense(self.hidden[0])(shared)[..., None, :])
        for width in self.hidden[1:]:
            x = activation(nn.Dense(width)(x))
        return x


class Encoder(nn.Module):
    """Scaled observations `[..., O]` and inputs `[..., X]` to `[..., features]`.

    Without rings in the description, or with `rings` off, it is one plain
    layer, and the network that uses it a plain MLP. With `flat` on it sees the
    whole observation directly as well as through the rings' bins.
    """

    spec: ObservationSpec
    rings: bool
    bin_hidden: Sequence[int]
    features: int
    neighbours: int
    flat: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, extra: jax.Array) -> jax.Array:
        whole = self.flat or not self.rings
        parts = [obs if whole else take_sensors(self.spec, obs), extra]
        for bins in ring_sizes(self.spec) if self.rings else ():
            network = BinNetwork(self.spec, bins, self.bin_hidden, self.neighbours)
            x = network(obs, extra)
            parts += [jnp.max(x, axis=-2), jnp.mean(x, axis=-2)]
        return nn.relu(nn.Dense(self.features)(jnp.concatenate(parts, axis=-1)))


class Heads(nn.Module):
    """Several networks behind one encoding: `[..., F]` to `[..., heads, outputs]`."""

    hidden: Sequence[int]
    heads: int
    outputs: int = 1
    start: float = 0.0

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        bias = nn.initializers.constant(self.start)

        def head() -> jax.Array:
            x = features
            for width in self.hidden:
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(self.outputs, bias_init=bias)(x)

        return jnp.stack([head() for _ in range(self.heads)], axis=-2)


class Critic(nn.Module):
    """Values of states, or of states and actions: `[..., heads]`, at first about `start`."""

    encoder: Encoder
    hidden: Sequence[int]
    heads: int
    start: float = 0.0

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array | None = None) -> jax.Array:
        extra = obs[..., :0] if action is None else with_saturation(action)
        return Heads(self.hidden, self.heads, start=self.start)(self.encoder(obs, extra))[..., 0]


class GaussianPolicy(nn.Module):
    """A diagonal Gaussian over actions: mean in [-1, 1] and log std, each `[..., A]`.

    Not squashed, as in IQL's code (Kostrikov et al. 2022): before a tanh the
    logged actions at the ends of the range, which are common, would lie
    infinitely far out and decide the fit.
    """

    encoder: Encoder
    hidden: Sequence[int]
    actions: int
    log_std_range: tuple[float, float] = (-4.0, 0.0)

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = self.encoder(obs, obs[..., :0])
        out = Heads(self.hidden, 1, 2 * self.actions)(features)[..., 0, :]
        mean, log_std = jnp.split(out, 2, axis=-1)
        low, high = self.log_std_range
        return jnp.tanh(mean), low + (high - low) * nn.sigmoid(log_std)


class DynamicsNetwork(nn.Module):
    """Standardised change of the observation and the reward, and log variances.

    Maps scaled observations `[..., O]` and actions `[..., A]` to mean and log
    variance, both `[..., O + rewards]`, the parts of the reward last. A ring
    changes by a kernel over shifts (the agent turns under it), made from sensors
    and action, plus what the network shared over its bins adds.
    """

    spec: ObservationSpec
    bin_hidden: Sequence[int]
    hidden: Sequence[int]
    neighbours: int
    rewards: int

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        action = with_saturation(action)
        sensors = jnp.concatenate([take_sensors(self.spec, obs), action], axis=-1)
        means, log_variances, pooled = {}, {}, []
        for bins in ring_sizes(self.spec):
            x = BinNetwork(self.spec, bins, self.bin_hidden, self.neighbours, gated=True)(
                obs, action
            )
            rings = take_rings(self.spec, obs, bins)
            change = self._turn(rings, sensors) + nn.Dense(rings.shape[-1])(x)
            log_variance = nn.Dense(rings.shape[-1])(jax.lax.stop_gradient(x))
            for i, f in enumerate(f for f in self.spec.rings if f.size == bins):
                means[f.name], log_variances[f.name] = change[..., i], log_variance[..., i]
            pooled += [jnp.max(x, axis=-2), jnp.mean(x, axis=-2)]
        rest = self.spec.size - sum(f.size for f in self.spec.rings) + self.rewards
        x = jnp.concatenate([sensors, *pooled], axis=-1)
        for width in self.hidden:
            x = nn.swish(nn.Dense(width)(x))
        mean = self._in_order(means, nn.Dense(rest)(x))
        log_variance = self._in_order(log_variances, nn.Dense(rest)(jax.lax.stop_gradient(x)))
        return mean, jnp.clip(log_variance, -10.0, 4.0)

    def _turn(self, rings: jax.Array, sensors: jax.Array) -> jax.Array:
        """Change of the rings `[..., n, R]` by shifting them, `self.neighbours` at most."""
        count, shifts = rings.shape[-1], range(-self.neighbours, self.neighbours + 1)
        hidden = nn.swish(nn.Dense(self.bin_hidden[0])(sensors))
        kernel = nn.Dense(count * len(shifts))(hidden)
        kernel = kernel.reshape(*kernel.shape[:-1], 1, len(shifts), count)
        # A sum of products over a small axis, written out: under two vmaps XLA on
        # CPU (jaxlib 0.10.2) returns wrong numbers for the reduction.
        terms = [
            kernel[..., i, :] * jnp.roll(rings, -shift, axis=-2) for i, shift in enumerate(shifts)
        ]
        return sum(terms[1:], terms[0])

    def _in_order(self, rings: dict[str, jax.Array], rest: jax.Array) -> jax.Array:
        """Ring outputs and the rest, put in the order of the observation."""
        parts, start = [], 0
        for f in self.spec.fields:
            if f.kind == "ring":
                parts.append(rings[f.name])
            else:
                parts.append(rest[..., start : start + f.size])
                start += f.size
        return jnp.concatenate([*parts, rest[..., start:]], axis=-1)
