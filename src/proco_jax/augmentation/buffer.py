"""The buffer of imagined trajectories, and balanced batches from it."""

import jax
import jax.numpy as jnp
from flax import struct

from proco_jax.augmentation.rollouts import NOWHERE, RECOVERY, Imagined, violates
from proco_jax.config.schema import Config
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Array, Dataset, NStep, Segment, ToGo, Transition


@struct.dataclass
class Buffer:
    """The last generations of imagined trajectories; `generation` counts all that were added.

    The leaves of `data` have two leading axes: generations, trajectories.
    """

    data: Imagined
    generation: Array


def imagined_rows(config: Config) -> int:
    """Imagined rows per batch of `train.batch` logged ones."""
    return imagined_count(config, config.train.batch)


def imagined_count(config: Config, logged: int) -> int:
    """Imagined rows or segments beside logged ones: `imagined_share` of both together."""
    share = config.augmentation.imagined_share
    return max(1, round(logged * share / (1.0 - share))) if share else 0


def empty_buffer(generations: int, like: Imagined) -> Buffer:
    """A buffer with room for so many generations of trajectories of these shapes."""

    def room(x: Array) -> jax.Array:
        return jnp.zeros((generations, *x.shape), x.dtype)

    return Buffer(jax.tree.map(room, like), jnp.int32(0))


def add(buffer: Buffer, new: Imagined) -> Buffer:
    """Replaces the oldest generation."""
    slot = buffer.generation % buffer.data.length.shape[0]
    data = jax.tree.map(lambda held, x: held.at[slot].set(x), buffer.data, new)
    return Buffer(data, buffer.generation + 1)


def sample(
    key: Array,
    buffer: Buffer,
    normalizer: Normalizer,
    batch: int,
    n: int,
    violating_share: Array | float,
) -> Transition:
    """Imagined rows, a share of them from trajectories that violate.

    If no trajectory violates (or all do), all rows come from the other kind. Generations that were
    never written have length 0 and are never drawn; if nothing was written, all weights are 0.

    Args:
      batch: B.
      n: length of the window of following steps.
      violating_share: share of rows from violating trajectories.
    """
    data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), buffer.data)
    trajectory, step = _draw_rows(key, data, batch, violating_share)
    length, horizon = data.length[trajectory], data.action.shape[1]
    later = step[:, None] + jnp.arange(n)
    valid = later < length[:, None]
    window = jnp.minimum(later, horizon - 1)

    def ahead(values: Array) -> jax.Array:
        return jnp.where(valid, jnp.take_along_axis(values[trajectory], window, axis=1), 0.0)

    obs = data.obs.reshape(-1, data.obs.shape[-1])
    first = trajectory * (horizon + 1)
    at = first + step
    cost = ahead(data.unsafe.astype(jnp.float32))
    reward = ahead(data.reward)
    return Transition(
        obs=normalizer(obs[at]),
        action=data.action[trajectory, step],
        reward=reward[:, 0],
        cost=cost[:, 0],
        next_obs=normalizer(obs[at + 1]),
        discount=jnp.ones(batch),
        initial_obs=normalizer(obs[first]),
        n_step=NStep(
            reward=reward,
            cost=cost,
            violation=cost > 0,
            valid=valid,
            obs=normalizer(obs[first + jnp.minimum(step + n, length)]),
            discount=jnp.ones(batch),
        ),
        weight=(length > 0).astype(jnp.float32),
        imagined=jnp.ones(batch, bool),
    )


def sample_segments(
    key: Array,
    buffer: Buffer,
    data: Dataset,
    to_go: ToGo,
    normalizer: Normalizer,
    shape: tuple[int, int],
    violating_share: Array | float,
) -> Segment:
    """Segments that join a logged past with an imagined future, at least one step of the latter.

    A trajectory takes the place of the rest of the logged episode that it starts from: it ends
    where that episode does, if not before, and then the episode goes on as logged, so its sums
    to go continue those of the trajectory. Recovery rollouts start within other trajectories and
    have no logged past. Steps are drawn as `sample` draws them, and each at every place of a
    segment that its past allows with equal probability. Without any trajectory, and with origins
    NOWHERE, all steps are masked.

    Args:
      data: the logs from which the trajectories start, with the costs of the augmentation.
      to_go: of the same logs.
      shape: (B, K).
      violating_share: share of segments from violating trajectories.
    """
    count, size = shape
    row_key, place_key = jax.random.split(key)
    held = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), buffer.data)
    left = data.remaining[jnp.maximum(held.origin, 0)] + 1
    known = held.origin != NOWHERE
    held = held._replace(length=jnp.where(known, jnp.minimum(held.length, left), 0))
    chosen, step = _draw_rows(row_key, held, count, violating_share)
    origin = jnp.maximum(held.origin[chosen], 0)[:, None]
    length = held.length[chosen][:, None]
    past = jnp.where(held.source[chosen] == RECOVERY, 0, data.step[origin[:, 0]])
    places = jnp.minimum(size, step + past + 1)
    first = step - jax.random.randint(place_key, (count,), 0, places)
    # Steps since the start of the trajectory, negative ones in the logs.
    since = first[:, None] + jnp.arange(size)
    mask = (since < length) & (length > 0)
    since = jnp.minimum(since, jnp.maximum(length - 1, 0))
    logged, ahead = origin + jnp.minimum(since, 0), jnp.maximum(since, 0)
    imagined = since >= 0

    def join(early: Array, of_model: Array) -> jax.Array:
        """Values `[B, K, ...]` of logged transitions, and `[B, H, ...]` of imagined steps."""
        index = ahead.reshape(*ahead.shape, *[1] * (of_model.ndim - 2))
        late = jnp.take_along_axis(of_model, index, axis=1)
        return jnp.where(imagined.reshape(index.shape), late, early)

    def sums(of_logs: Array, value: Array) -> jax.Array:
        """Sums to go `[B, K]`; `value [B, H]` of imagined steps."""
        inside = jnp.where(jnp.arange(value.shape[1]) < length, value, 0.0)
        goes_on = length <= data.remaining[origin]
        rest = jnp.where(goes_on, of_logs[jnp.minimum(origin + length, data.size - 1)], 0.0)
        imagined_sum = jnp.cumsum(inside[:, ::-1], axis=1)[:, ::-1] + rest
        begins = imagined_sum[:, :1]
        before = of_logs[logged] - of_logs[origin] + begins
        return jnp.where(imagined, jnp.take_along_axis(imagined_sum, ahead, axis=1), before)

    reward, unsafe = held.reward[chosen], held.unsafe[chosen].astype(jnp.float32)
    return Segment(
        obs=normalizer(join(data.obs[data.obs_index[logged]], held.obs[chosen])),
        action=join(data.action[logged], held.action[chosen]),
        reward=jnp.where(mask, join(data.reward[logged], reward), 0.0),
        cost=jnp.where(mask, join(data.cost[logged], unsafe), 0.0),
        return_to_go=sums(to_go.reward, reward),
        cost_to_go=sums(to_go.cost, unsafe),
        timestep=data.step[origin] + since,
        mask=mask,
        imagined=imagined & mask,
    )


def _draw_rows(
    key: Array, data: Imagined, batch: int, violating_share: Array | float
) -> tuple[jax.Array, jax.Array]:
    """Trajectories and steps of B rows, each `[B]`."""
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
    return chosen, jnp.minimum(step.astype(jnp.int32), jnp.maximum(data.length[chosen] - 1, 0))


def _draw(key: Array, weights: Array, batch: int) -> jax.Array:
    """Indices in proportion to weights; an index of weight 0 is drawn only if all are 0."""
    total = jnp.cumsum(weights)
    point = jax.random.uniform(key, (batch,)) * total[-1]
    index = jnp.searchsorted(total, point, side="right")
    # Rounding may put a point beyond the last index of positive weight.
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.minimum(index, last)
