"""Training batches: logged transitions or segments, joined with imagined rows.

Where the augmentation has imagined episodes, rows of them, drawn as logged ones are, take the place
of a share of the logged rows, each with the same probability.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from proco_jax.algorithms.base import SegmentSpec
from proco_jax.augmentation.base import Augmentation, Context, ImaginedEpisodes
from proco_jax.config.schema import TrainConfig
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Array, Dataset, NStep, Segment, ToGo, Transition


def draw_transitions(
    config: TrainConfig,
    augmentation: Augmentation,
    context: Context,
    hyper: Any,
    state: Any,
    key: Array,
) -> Transition:
    """Logged rows with the augmentation's costs, followed by the augmentation's imagined rows.

    Args:
      hyper: hyperparameters of the augmentation.
      state: state of the augmentation.
    """
    logged_key, imagined_key = jax.random.split(key)

    def draw(key: Array, data: Dataset, cost: Array) -> Transition:
        index = jax.random.randint(key, (config.batch,), 0, data.size)
        return gather_transitions(data, context.normalizer, cost, index, config.n_step)

    batch = draw(logged_key, context.data, augmentation.cost(context))
    batch = _with_episodes(
        logged_key,
        augmentation.episodes(hyper, context),
        batch,
        lambda key, episodes: draw(key, episodes.data, episodes.data.cost),
    )
    if augmentation.sample is None:
        return batch
    imagined = augmentation.sample(imagined_key, hyper, context, state)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, imagined)


def draw_segments(
    spec: SegmentSpec,
    augmentation: Augmentation,
    context: Context,
    hyper: Any,
    state: Any,
    to_go: ToGo,
    key: Array,
) -> Segment:
    """Logged segments with the augmentation's costs, followed by the augmentation's imagined ones.

    Args:
      spec: number and length of the segments.
      hyper: hyperparameters of the augmentation.
      state: state of the augmentation.
      to_go: of the logs, with the augmentation's costs.
    """
    logged_key, imagined_key = jax.random.split(key)
    data = dataclasses.replace(context.data, cost=augmentation.cost(context))

    def draw(key: Array, data: Dataset, to_go: ToGo) -> Segment:
        index = draw_starts(key, spec, data, to_go)
        return gather_segments(data, context.normalizer, to_go, index, spec.length)

    batch = draw(logged_key, data, to_go)
    batch = _with_episodes(
        logged_key,
        augmentation.episodes(hyper, context),
        batch,
        lambda key, episodes: draw(key, episodes.data, episodes.to_go),
    )
    if augmentation.sample_segments is None:
        return batch
    context = context._replace(data=data)
    inputs = (imagined_key, hyper, context, state, to_go, spec.batch, spec.length)
    imagined = augmentation.sample_segments(*inputs)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, imagined)


def _with_episodes(
    key: Array,
    found: tuple[ImaginedEpisodes, Array] | None,
    batch: Any,
    draw: Callable[[Array, ImaginedEpisodes], Any],
) -> Any:
    """A logged batch in which rows of imagined episodes take the place of a share of the rows.

    Args:
      key: of the logged rows.
      found: the episodes and that share, if there are any.
      batch: logged rows.
      draw: key and episodes to a batch of the same shapes.
    """
    if found is None:
        return batch
    episodes, share = found
    episode_key, choice_key = jax.random.split(jax.random.fold_in(key, 1))
    rows = jax.tree.leaves(batch)[0].shape[0]
    chosen = jax.random.bernoulli(choice_key, share, (rows,))

    def choose(logged: Array, own: Array) -> jax.Array:
        return jnp.where(chosen.reshape(rows, *[1] * (logged.ndim - 1)), own, logged)

    return jax.tree.map(choose, batch, draw(episode_key, episodes))


def draw_starts(key: Array, spec: SegmentSpec, data: Dataset, to_go: ToGo) -> jax.Array:
    """Transitions `[B]` at which logged segments begin.

    If no episode costs less than `spec.cost_ceiling`, all have the same chance.
    """
    if spec.cost_ceiling is None:
        return jax.random.randint(key, (spec.batch,), 0, data.size)
    steps = data.step + data.remaining + 1
    whole = to_go.cost[jnp.arange(data.size) - data.step]
    below = jnp.maximum(spec.cost_ceiling - whole, 0.0)
    weight = jnp.where(jnp.any(below > 0), below, 1.0) / steps
    total = jnp.cumsum(weight)
    point = jax.random.uniform(key, (spec.batch,)) * total[-1]
    return jnp.minimum(jnp.searchsorted(total, point, side="right"), data.size - 1)


def gather_transitions(
    data: Dataset, normalizer: Normalizer, cost: Array, index: Array, n: int
) -> Transition:
    """Transitions `index [B]` of the logs, each with the n steps that follow.

    Args:
      data: the logs.
      normalizer: of observations.
      cost: `[N]` cost of each logged transition, as the augmentation says.
      index: `[B]` int32.
      n: length of the window.
    """
    at = data.obs_index[index]
    step = jnp.arange(n)
    valid = step <= data.remaining[index][:, None]
    window = jnp.minimum(index[:, None] + step, data.size - 1)
    last = index + valid.sum(axis=1) - 1
    costs = jnp.where(valid, cost[window], 0.0)
    return Transition(
        obs=normalizer(data.obs[at]),
        action=data.action[index],
        reward=data.reward[index],
        cost=cost[index],
        next_obs=normalizer(data.obs[at + 1]),
        discount=data.discount[index],
        initial_obs=normalizer(data.obs[at - data.step[index]]),
        n_step=NStep(
            reward=jnp.where(valid, data.reward[window], 0.0),
            cost=costs,
            violation=costs > 0,
            valid=valid,
            obs=normalizer(data.obs[data.obs_index[last] + 1]),
            discount=data.discount[last],
        ),
        weight=jnp.ones(index.shape[0]),
        imagined=jnp.zeros(index.shape[0], bool),
    )


def gather_segments(
    data: Dataset, normalizer: Normalizer, to_go: ToGo, index: Array, length: int
) -> Segment:
    """Segments of `length` steps that begin at transitions `index [B]` of the logs.

    Rows beyond the end of the episode repeat the last transition and are masked.
    """
    step = jnp.arange(length)
    mask = step <= data.remaining[index][:, None]
    at = index[:, None] + jnp.minimum(step, data.remaining[index][:, None])
    return Segment(
        obs=normalizer(data.obs[data.obs_index[at]]),
        action=data.action[at],
        reward=jnp.where(mask, data.reward[at], 0.0),
        cost=jnp.where(mask, data.cost[at], 0.0),
        return_to_go=to_go.reward[at],
        cost_to_go=to_go.cost[at],
        timestep=data.step[at],
        mask=mask,
        imagined=jnp.zeros(mask.shape, bool),
    )


def sums_to_go(data: Dataset, cost: Array) -> ToGo:
    """Returns and costs to go of the logs, for costs `[N]`; one pass over all logs."""

    def add(later: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[Array, Array]:
        (sums, _), (values, ends) = later, now
        return values + jnp.where(ends, 0.0, sums), ends | later[1]

    ends = jnp.broadcast_to(data.remaining == 0, (2, data.size))
    values = jnp.stack([data.reward, cost])
    return ToGo(*jax.lax.associative_scan(add, (values, ends), reverse=True, axis=1)[0])
