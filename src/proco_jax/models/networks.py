"""Networks; all of them read observations through the same form of encoder.

The encoder follows the description of the observation. The bins of a ring share one network, in
which each bin sees its neighbors, the planar vectors rotated into the bin's own frame, the heading,
and all other sensors, so that the network is equivariant to rotations of the agent. Inputs are
normalized observations, see `normalizer.Normalizer`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.config.schema import EncoderConfig
from proco_jax.models import ring_motion
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array

# Actuators may saturate at about 1 / SATURATION of an action's range.
SATURATION = 30.0
# About the size, for robots of Safety-Gymnasium, of the motion in a step in m and rad, of the
# change of a ring that follows from it, and of what a ring shows beside single objects.
USUAL_MOTION, USUAL_CHANGE, USUAL_REST = 0.05, 0.02, 0.05


def apply(net: nn.Module, params: Any, *inputs: jax.Array) -> Any:
    """The output of a network for these parameters and inputs."""
    return net.apply(params, *inputs)


def dropout(module: nn.Module, x: jax.Array, rate: Array | float) -> jax.Array:
    """Dropout whose rate is a number of the program, not a constant of it.

    Without a random stream named `dropout` nothing is dropped. Call it from within a module.
    """
    if not module.has_rng("dropout"):
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def ring_sizes(spec: ObservationSpec) -> tuple[int, ...]:
    """The distinct numbers of bins of the rings."""
    return tuple(dict.fromkeys(f.size for f in spec.rings))


def take_rings(spec: ObservationSpec, obs: jax.Array, bins: int) -> jax.Array:
    """The rings of one size: `[..., O]` to `[..., n, R]`."""
    return jnp.stack([obs[..., spec.slices[f.name]] for f in spec.rings if f.size == bins], -1)


def take_sensors(spec: ObservationSpec, obs: jax.Array) -> jax.Array:
    """All fields that are no rings, in order."""
    parts = [obs[..., spec.slices[f.name]] for f in spec.fields if f.kind != "ring"]
    return jnp.concatenate(parts, axis=-1) if parts else obs[..., :0]


def sensors_size(spec: ObservationSpec) -> int:
    """How many numbers `take_sensors` takes."""
    return spec.size - sum(f.size for f in spec.rings)


def take_planar(spec: ObservationSpec, obs: jax.Array) -> jax.Array:
    """x and y of the vectors in the agent's frame: `[..., V, 2]`."""
    starts = [spec.slices[f.name].start for f in spec.vectors]
    if not starts:
        return jnp.zeros((*obs.shape[:-1], 0, 2), obs.dtype)
    return jnp.stack([obs[..., start : start + 2] for start in starts], axis=-2)


def put_planar(spec: ObservationSpec, obs: jax.Array, vectors: jax.Array) -> jax.Array:
    """Observations `[..., O]` in which `take_planar` finds the vectors `[..., V, 2]`."""
    for i, f in enumerate(spec.vectors):
        start = spec.slices[f.name].start
        obs = obs.at[..., start : start + 2].set(vectors[..., i, :])
    return obs


def into_bin_frames(vectors: jax.Array, bins: int) -> jax.Array:
    """Planar vectors in the frame of each bin.

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


def with_neighbors(bins: jax.Array, neighbors: int) -> jax.Array:
    """Each bin concatenated with its k neighbors on either side: `[..., n, R (2k + 1)]`."""
    shifts = range(-neighbors, neighbors + 1)
    return jnp.concatenate([jnp.roll(bins, -shift, axis=-2) for shift in shifts], axis=-1)


def with_near_range(rings: jax.Array) -> jax.Array:
    """Closeness c and c^8: `[..., n, R]` to `[..., n, 2 R]`.

    Closeness is linear in the distance, so the last centimeters, which decide about safety, are a
    small part of its range. c^8 has four times the slope there and is flat far away.
    """
    return jnp.concatenate([rings, rings**8], axis=-1)


def with_saturation(action: jax.Array) -> jax.Array:
    """Actions a and tanh(SATURATION a): `[..., A]` to `[..., 2 A]`.

    Actuators may saturate at a small part of the action's range (a Point's force at 0.05, a Car's
    wheels at 0.02), so the sign of an action matters more than its size.
    """
    return jnp.concatenate([action, jnp.tanh(SATURATION * action)], axis=-1)


class BinNetwork(nn.Module):
    """One network shared over the bins of all rings of one size.

    Maps normalized observations `[..., O]`, further inputs `[..., X]`, and, if there are any,
    further inputs of each bin `[..., n, Y]`, which the two bins beside it see too, to features
    `[..., n, hidden[-1]]`.

    Attributes:
      gated: whether the features of a bin are multiplied by a gate made from what all bins share.
        A change is a speed times a slope, a product that sums must first learn.
    """

    spec: ObservationSpec
    bins: int
    hidden: Sequence[int]
    neighbors: int
    gated: bool = False

    @nn.compact
    def __call__(
        self, obs: jax.Array, extra: jax.Array, more: jax.Array | None = None
    ) -> jax.Array:
        activation = nn.swish if self.gated else nn.relu
        rings = with_near_range(take_rings(self.spec, obs, self.bins))
        planar = take_planar(self.spec, obs)
        forward = jnp.broadcast_to(jnp.array([1.0, 0.0]), (*planar.shape[:-2], 1, 2))
        turned = into_bin_frames(jnp.concatenate([forward, planar], axis=-2), self.bins)
        parts = [with_neighbors(rings, self.neighbors), turned]
        if more is not None:
            parts.append(with_neighbors(more, 1))
        local = jnp.concatenate(parts, axis=-1)
        sensors = jnp.concatenate([take_sensors(self.spec, obs), extra], axis=-1)
        # The layer of what all bins share is applied once, not once per bin.
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
    """Normalized observations `[..., O]` and inputs `[..., X]` to `[..., features]`.

    Without rings in the description, or with `rings` off, it is a dense layer, and the network that
    uses it an MLP. With `flat` on, the dense layer reads the rings directly too.
    """

    spec: ObservationSpec
    rings: bool
    bin_hidden: Sequence[int]
    features: int
    neighbors: int
    flat: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array, extra: jax.Array) -> jax.Array:
        whole = self.flat or not self.rings
        parts = [obs if whole else take_sensors(self.spec, obs), extra]
        for bins in ring_sizes(self.spec) if self.rings else ():
            network = BinNetwork(self.spec, bins, self.bin_hidden, self.neighbors)
            x = network(obs, extra)
            parts += [jnp.max(x, axis=-2), jnp.mean(x, axis=-2)]
        return nn.relu(nn.Dense(self.features)(jnp.concatenate(parts, axis=-1)))


def copied_encoder(encoder: Encoder, own: Any, source: Any) -> Any:
    """Parameters with which an encoder encodes observations as with other parameters.

    Args:
      encoder: not `flat`.
      own: its parameters with further inputs `[..., X]`, or without. The weights of these inputs
        stay as they are, so the encodings agree where the inputs are 0.
      source: its parameters without further inputs.
    """
    # Every layer that has further inputs reads them after these fields.
    at = sensors_size(encoder.spec) if encoder.rings else encoder.spec.size

    def one(ours: Array, theirs: Array) -> jax.Array:
        extra = ours.shape[0] - theirs.shape[0]
        return jnp.concatenate([theirs[:at], ours[at : at + extra], theirs[at:]])

    return jax.tree.map(one, own, source)


class Heads(nn.Module):
    """Several MLPs on one encoding: `[..., F]` to `[..., heads, outputs]`."""

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
    """Values of states, or of states and actions, `[..., heads]`; initially about `start`."""

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

    It is not squashed, as in IQL's code (Kostrikov et al. 2022): logged actions at the ends of the
    range are common, and before a tanh they would be infinite and dominate the fit.
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
    """Standardized change of the observation and the reward, log variances, and the motion.

    Maps normalized observations `[..., O]` and actions `[..., A]` to three arrays
    `[..., O + rewards]`, the parts of the reward last: mean, log variance, and the change of the
    rings that follows from the agent's motion, in closeness, 0 outside of rings. The predicted
    change is the mean in its units plus the latter. The last output is the motion `[..., 3]`.

    The motion is made from sensors and action, and the same for all rings (`ring_motion.moved`).
    The network shared over the bins adds what does not follow from it, and may take it back.
    """

    spec: ObservationSpec
    bin_hidden: Sequence[int]
    hidden: Sequence[int]
    neighbors: int
    rewards: int

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
        action = with_saturation(action)
        sensors = jnp.concatenate([take_sensors(self.spec, obs), action], axis=-1)
        means, log_variances, by_motions, pooled = {}, {}, {}, []
        motion = self._motion(sensors) if self.spec.rings else jnp.zeros((*obs.shape[:-1], 3))
        for bins in ring_sizes(self.spec):
            fields = [f for f in self.spec.rings if f.size == bins]
            rings = take_rings(self.spec, obs, bins)
            reach = jnp.array([f.reach for f in fields])
            by_motion, shown = ring_motion.moved(rings, reach, motion)
            seen = jnp.clip(by_motion / USUAL_CHANGE, -5.0, 5.0)
            hidden = (rings - shown) / USUAL_REST
            x = BinNetwork(self.spec, bins, self.bin_hidden, self.neighbors, gated=True)(
                obs, action, jnp.concatenate([seen, hidden], axis=-1)
            )
            zeros = nn.initializers.zeros
            change = nn.Dense(len(fields), kernel_init=zeros)(x)
            by_motion = by_motion * (1.0 + nn.Dense(len(fields), kernel_init=zeros)(x))
            log_variance = nn.Dense(len(fields))(jax.lax.stop_gradient(x))
            for i, f in enumerate(fields):
                means[f.name], log_variances[f.name] = change[..., i], log_variance[..., i]
                by_motions[f.name] = by_motion[..., i]
            pooled += [jnp.max(x, axis=-2), jnp.mean(x, axis=-2)]
        rest = sensors_size(self.spec) + self.rewards
        x = jnp.concatenate([sensors, *pooled], axis=-1)
        for width in self.hidden:
            x = nn.swish(nn.Dense(width)(x))
        mean = self._in_order(means, nn.Dense(rest)(x))
        log_variance = self._in_order(log_variances, nn.Dense(rest)(jax.lax.stop_gradient(x)))
        by_motion = self._in_order(by_motions, jnp.zeros((*obs.shape[:-1], rest)))
        return mean, jnp.clip(log_variance, -10.0, 4.0), by_motion, motion

    def _motion(self, sensors: jax.Array) -> jax.Array:
        """The agent's motion in a step, `[..., 3]`, see `ring_motion.moved`; at first none."""
        x = nn.swish(nn.Dense(self.bin_hidden[0])(sensors))
        x = jnp.concatenate([sensors, x], axis=-1)
        return USUAL_MOTION * nn.Dense(3, kernel_init=nn.initializers.zeros)(x)

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


def make_encoder(config: EncoderConfig, spec: ObservationSpec) -> Encoder:
    """The encoder of a config for an observation."""
    return Encoder(spec, config.rings, config.bin_hidden, config.features, config.neighbors)


def sample_gaussian(net: GaussianPolicy, params: Any, obs: Array, key: Array, n: int) -> jax.Array:
    """Actions `[n, A]` of a Gaussian policy in one normalized state `[O]`, clipped to [-1, 1]."""
    mean, log_std = apply(net, params, obs)
    noise = jax.random.normal(key, (n, *mean.shape))
    return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)


def log_probability(net: GaussianPolicy, params: Any, obs: Array, action: Array) -> jax.Array:
    """Log density `[B]` of actions under a Gaussian policy, up to a constant."""
    mean, log_std = apply(net, params, obs)
    return gaussian_log_density(mean, log_std, action)


def gaussian_log_density(mean: Array, log_std: Array, action: Array) -> jax.Array:
    """Log density `[...]` of `[..., A]` actions under diagonal Gaussians, up to a constant."""
    error = (action - mean) * jnp.exp(-log_std)
    return -jnp.sum(0.5 * jnp.square(error) + log_std, axis=-1)
