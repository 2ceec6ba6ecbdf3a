"""The sample buffer: the last generations of imagined trajectories, drawn from in balance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from proco_jax.augmentation.rollouts import Imagined, violates
from proco_jax.types import Array


@struct.dataclass
class Buffer:
    """The last generations of imagined trajectories; `generation` counts all ever."""

    data: Imagined
    generation: Array


class Sample(NamedTuple):
    """Imagined transitions and what came after them.

    Attributes:
      obs: `[B, O]`.
      action: `[B, A]`.
      next_obs: `[B, O]`.
      unsafe: `[B, n]` bool, of the next n states; False behind the trajectory's end.
      obs_ahead: `[B, O]`, the last of these states, or of the trajectory.
      weight: `[B]`, 0 while nothing at all was kept, else 1.
    """

    obs: Array
    action: Array
    next_obs: Array
    unsafe: Array
    obs_ahead: Array
    weight: Array


def empty_buffer(generations: int, like: Imagined) -> Buffer:
    """A buffer for so many generations of trajectories shaped like these."""

    def room(x: Array) -> jax.Array:
        return jnp.zeros((generations, *x.shape), x.dtype)

    return Buffer(jax.tree.map(room, like), jnp.int32(0))


def add(buffer: Buffer, new: Imagined) -> Buffer:
    """Writes a generation over the oldest."""
    slot = buffer.generation % buffer.data.length.shape[0]
    data = jax.tree.map(lambda held, x: held.at[slot].set(x), buffer.data, new)
    return Buffer(data, buffer.generation + 1)


def sample(
    buffer: Buffer, batch: int, violating_share: float, lookahead: int, key: Array
) -> Sample:
    """Imagined transitions, a share of them from trajectories that violate.

    Where no kept trajectory violates (or none is free of violation), all come
    from the other kind. Unwritten generations have length 0 and are never drawn.

    Args:
      batch: B.
      lookahead: n.
    """
    data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), buffer.data)
    weights = data.length.astype(jnp.float32)
    violating = violates(data)
    kind_key, bad_key, good_key, step_key = jax.random.split(key, 4)
    bad = _draw(bad_key, jnp.where(violating, weights, 0.0), batch)
    good = _draw(good_key, jnp.where(violating, 0.0, weights), batch)
    want_bad = jax.random.bernoulli(kind_key, violating_share, (batch,))
    none_bad = ~jnp.any(violating & (data.length > 0))
    none_good = ~jnp.any(~violating & (data.length > 0))
    chosen = jnp.where((want_bad & ~none_bad) | none_good, bad, good)
    step = jnp.floor(jax.random.uniform(step_key, (batch,)) * data.length[chosen])
    step = jnp.minimum(step.astype(jnp.int32), jnp.maximum(data.length[chosen] - 1, 0))
    obs = data.obs.reshape(-1, data.obs.shape[-1])
    at = chosen * data.obs.shape[1] + step
    later = step[:, None] + jnp.arange(lookahead)
    within = jnp.minimum(later, data.unsafe.shape[-1] - 1)
    unsafe = jnp.take_along_axis(data.unsafe[chosen], within, axis=-1)
    ahead = jnp.minimum(step + lookahead, data.length[chosen]) - step
    return Sample(
        obs=obs[at],
        action=data.action[chosen, step],
        next_obs=obs[at + 1],
        unsafe=unsafe & (later < data.length[chosen][:, None]),
        obs_ahead=obs[at + ahead],
        weight=(data.length[chosen] > 0).astype(jnp.float32),
    )


def _draw(key: Array, weights: Array, batch: int) -> jax.Array:
    """Indices in proportion to the weights; a weight of 0 is never drawn if any is above."""
    total = jnp.cumsum(weights)
    point = jax.random.uniform(key, (batch,)) * total[-1]
    index = jnp.searchsorted(total, point, side="right")
    # Rounding may put the last point past the end: then the last one of weight.
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.minimum(index, last)
