"""Imagined rollouts: the counterfactual unsafe samples that the logs lack.

Model, cost and policy come in as functions. Starts are laid out `[K, B]`: B
starts for each of the K members that predict, so that every member runs on one
dense block.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from proco_jax.config import RolloutConfig
from proco_jax.types import Array, Dataset

RISK, BEHAVIOR, POLICY = 0, 1, 2


class World(NamedTuple):
    """What a rollout needs to know, as functions of raw observations.

    Attributes:
      step: obs `[K, ..., O]`, action `[K, ..., A]` to the next obs, member k
        predicting block k.
      disagreement: obs `[..., O]`, action `[..., A]` to `[...]`.
      score: obs `[..., O]` to `[...]`, higher is riskier.
      unsafe: obs `[..., O]` to `[...]` bool.
      limit: disagreement at which a rollout ends.
    """

    step: Callable[[Array, Array], jax.Array]
    disagreement: Callable[[Array, Array], jax.Array]
    score: Callable[[Array], jax.Array]
    unsafe: Callable[[Array], jax.Array]
    limit: Array


class Imagined(NamedTuple):
    """M imagined trajectories.

    Attributes:
      obs: `[M, H + 1, O]` raw.
      action: `[M, H, A]`.
      unsafe: `[M, H]` bool, of the next state.
      length: `[M]` int32, steps before the model leaves what it knows.
      source: `[M]` int32, RISK, BEHAVIOR or POLICY.
    """

    obs: Array
    action: Array
    unsafe: Array
    length: Array
    source: Array


@struct.dataclass
class Buffer:
    """The last generations of imagined trajectories; `generation` counts all ever."""

    data: Imagined
    generation: Array


def generate(
    config: RolloutConfig,
    world: World,
    policy: Callable[[Array, Array], jax.Array],
    data: Dataset,
    risky: Array,
    members: int,
    key: Array,
) -> Imagined:
    """One regeneration: starts from the logs, actions from the mixture, labels.

    Args:
      policy: key and raw obs `[..., O]` to actions `[..., A]`.
      data: the logs.
      risky: `[R]` indices of transitions whose state is near what is unsafe.
      members: K.

    Returns:
      K * `config.starts` trajectories of `config.horizon` steps.
    """
    start_key, source_key, plan_key, walk_key = jax.random.split(key, 4)
    shape = (members, config.starts)
    index = sample_starts(start_key, shape, data.size, risky, config.risky_start_share)
    start = data.obs[data.obs_index[index]]
    source = _sources(source_key, shape, config.risk_share)
    risk_key, noise_key = jax.random.split(plan_key)
    risk = risky_actions(config, world, start, data.action.shape[-1], risk_key)
    logged = logged_actions(data, index, config.horizon)
    noise = config.noise * jax.random.normal(noise_key, logged.shape)
    logged = jnp.clip(logged + noise, -1.0, 1.0)
    plan = jnp.where((source == RISK)[..., None, None], risk, logged)
    return imagine(world, policy, start, plan, source, walk_key)


def imagine(
    world: World,
    policy: Callable[[Array, Array], jax.Array],
    start: Array,
    plan: Array,
    source: Array,
    key: Array,
) -> Imagined:
    """Follows planned actions, or the policy, through the model and labels what comes.

    Args:
      start: `[K, B, O]`.
      plan: `[K, B, H, A]`, followed where `source` is not POLICY.
      source: `[K, B]`.
    """
    chex.assert_equal_shape_prefix([start, plan, source], 2)

    def step(carry: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple:
        obs, alive = carry
        planned, step_key = inputs
        by_policy = (source == POLICY)[..., None]
        action = jnp.where(by_policy, policy(step_key, obs), planned)
        next_obs = world.step(obs, action)
        known = world.disagreement(obs, action) <= world.limit
        # A model gone astray may return anything; what is not finite is not kept.
        known &= jnp.all(jnp.isfinite(next_obs), axis=-1)
        next_obs = jnp.where(jnp.isfinite(next_obs), next_obs, obs)
        alive = alive & known
        return (next_obs, alive), (action, next_obs, alive)

    horizon = plan.shape[2]
    keys = jax.random.split(key, horizon)
    alive = jnp.ones(source.shape, bool)
    _, (action, next_obs, alive) = jax.lax.scan(
        step, (start, alive), (jnp.moveaxis(plan, 2, 0), keys)
    )
    action, next_obs, alive = (jnp.moveaxis(x, 0, 2) for x in (action, next_obs, alive))
    obs = jnp.concatenate([start[:, :, None], next_obs], axis=2)
    found = Imagined(obs, action, world.unsafe(next_obs), alive.sum(2, dtype=jnp.int32), source)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def risky_actions(
    config: RolloutConfig, world: World, start: Array, actions: int, key: Array
) -> jax.Array:
    """From each start, of several persistent sequences the one imagined riskiest.

    Args:
      start: `[K, B, O]`.

    Returns:
      `[K, B, H, A]`.
    """
    members, starts, _ = start.shape
    shape = (config.horizon, members, starts, config.candidates, actions)
    plans = persistent_actions(key, shape, config.persistence)
    begin = jnp.broadcast_to(start[:, :, None], (*shape[1:-1], start.shape[-1]))

    def step(carry: tuple[Array, Array], action: Array) -> tuple:
        obs, worst = carry
        obs = world.step(obs, action)
        return (obs, jnp.maximum(worst, world.score(obs))), None

    worst = jnp.full(shape[1:-1], -jnp.inf)
    (_, worst), _ = jax.lax.scan(step, (begin, worst), plans)
    best = jnp.argmax(worst, axis=-1)[None, :, :, None, None]
    chosen = jnp.take_along_axis(plans, best, axis=3)[..., 0, :]
    return jnp.moveaxis(chosen, 0, 2)


def persistent_actions(key: Array, shape: tuple[int, ...], persistence: float) -> jax.Array:
    """Uniform random actions that are held for about `persistence` steps, `[H, ..., A]`."""
    fresh_key, hold_key = jax.random.split(key)
    fresh = jax.random.uniform(fresh_key, shape, minval=-1.0, maxval=1.0)
    renew = jax.random.bernoulli(hold_key, 1.0 / max(persistence, 1.0), (*shape[:-1], 1))

    def step(held: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        new, change = inputs
        held = jnp.where(change, new, held)
        return held, held

    return jax.lax.scan(step, fresh[0], (fresh, renew))[1]


def logged_actions(data: Dataset, index: Array, horizon: int) -> jax.Array:
    """What the log did next: `[..., H, A]`, the last action held at an episode's end."""
    ahead = jnp.minimum(jnp.arange(horizon), data.remaining[index][..., None])
    return data.action[index[..., None] + ahead]


def sample_starts(
    key: Array, shape: tuple[int, ...], size: int, risky: Array, risky_share: float
) -> jax.Array:
    """Indices of logged transitions, a share of them from `risky`."""
    pick_key, any_key, risky_key = jax.random.split(key, 3)
    anywhere = jax.random.randint(any_key, shape, 0, size)
    near = risky[jax.random.randint(risky_key, shape, 0, risky.shape[0])]
    return jnp.where(jax.random.bernoulli(pick_key, risky_share, shape), near, anywhere)


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
    buffer: Buffer, batch: int, violating_share: float, key: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Imagined transitions, a share of them from trajectories that violate.

    Where no kept trajectory violates (or none is free of violation), all come
    from the other kind. Unwritten generations have length 0 and are never drawn.

    Returns:
      obs `[B, O]`, action `[B, A]`, unsafe `[B]` bool of the next state,
      next_obs `[B, O]`, and weight `[B]`: 0 while nothing at all was kept, else 1.
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
    weight = (data.length[chosen] > 0).astype(jnp.float32)
    return obs[at], data.action[chosen, step], data.unsafe[chosen, step], obs[at + 1], weight


def violates(data: Imagined) -> jax.Array:
    """Whether a trajectory meets an unsafe state within its length, `[M]` bool."""
    known = jnp.arange(data.unsafe.shape[-1]) < data.length[..., None]
    return jnp.any(data.unsafe & known, axis=-1)


def summary(data: Imagined) -> dict[str, jax.Array]:
    """How many steps were kept and how many of them violate, by source of action."""
    bad = violates(data)
    report = {
        "rollouts/length": jnp.mean(data.length.astype(jnp.float32)),
        "rollouts/violating_share": jnp.mean(bad.astype(jnp.float32)),
    }
    for name, source in (("risk", RISK), ("behavior", BEHAVIOR), ("policy", POLICY)):
        mine = data.source == source
        share = jnp.sum(mine & bad) / jnp.maximum(jnp.sum(mine), 1)
        report[f"rollouts/violating_share_{name}"] = share
    return report


def _draw(key: Array, weights: Array, batch: int) -> jax.Array:
    """Indices in proportion to the weights; a weight of 0 is never drawn if any is above."""
    total = jnp.cumsum(weights)
    point = jax.random.uniform(key, (batch,)) * total[-1]
    index = jnp.searchsorted(total, point, side="right")
    # Rounding may put the last point past the end: then the last one of weight.
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.minimum(index, last)


def _sources(key: Array, shape: tuple[int, ...], risk_share: float) -> jax.Array:
    point = jax.random.uniform(key, shape)
    other = jnp.where(point < (1.0 + risk_share) / 2.0, BEHAVIOR, POLICY)
    return jnp.where(point < risk_share, RISK, other).astype(jnp.int32)
