"""Imagined rollouts: the counterfactual unsafe samples that the logs lack.

Model, cost and policy come in as functions. Starts are laid out `[K, B]`: in the
search for risky actions each of the K members that predict runs on one dense
block. What is kept is the mean of all members: a violation is decided by the
largest of a ring's bins, so that one member's noise makes violations of its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from proco_jax.config.schema import RolloutConfig
from proco_jax.types import Array, Dataset

RISK, BEHAVIOR, POLICY, ESCAPE = 0, 1, 2, 3
_SOURCES = {"risk": RISK, "behavior": BEHAVIOR, "policy": POLICY, "escape": ESCAPE}


class World(NamedTuple):
    """What a rollout needs to know, as functions of raw observations.

    Attributes:
      step: obs `[K, ..., O]`, action `[K, ..., A]` to the next obs, member k
        predicting block k.
      predict: obs `[..., O]`, action `[..., A]` to the mean next obs `[..., O]`
        of all members, and their disagreement `[...]`.
      score: obs `[..., O]` to `[...]`, higher is riskier.
      unsafe: obs `[..., O]` to `[...]` bool.
      limit: disagreement at which a rollout ends.
    """

    step: Callable[[Array, Array], jax.Array]
    predict: Callable[[Array, Array], tuple[jax.Array, jax.Array]]
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
      source: `[M]` int32, RISK, BEHAVIOR, POLICY or ESCAPE.
    """

    obs: Array
    action: Array
    unsafe: Array
    length: Array
    source: Array


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

    Then as many escapes as `config.escape_share` asks for: they start amid the
    trajectories imagined so far and take the least risky of several sequences.
    Without them every state on the way into a violation is followed by more of
    the same, and what could still be avoided looks lost.

    Args:
      policy: key and raw obs `[..., O]` to actions `[..., A]`.
      data: the logs.
      risky: `[R]` indices of transitions whose state is near what is unsafe.
      members: K.

    Returns:
      K * (`config.starts` + escapes) trajectories of `config.horizon` steps.
    """
    start_key, plan_key, walk_key, escape_key = jax.random.split(key, 4)
    shape = (members, config.starts)
    index = sample_starts(start_key, shape, data.size, risky, config.risky_start_share)
    start, plan, source = plan_actions(config, world, data, index, plan_key)
    found = imagine(world, policy, start, plan, source, walk_key)
    escapes = round(config.escape_share * config.starts)
    if not escapes:
        return found
    escaped = _escape_from(config, world, policy, found, (members, escapes), escape_key)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), found, escaped)


def plan_actions(
    config: RolloutConfig, world: World, data: Dataset, index: Array, key: Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mixture of actions, from logged transitions `index [K, B]` on.

    Returns:
      Starts `[K, B, O]`, planned actions `[K, B, H, A]` and sources `[K, B]`.
    """
    source_key, risk_key, noise_key = jax.random.split(key, 3)
    start = data.obs[data.obs_index[index]]
    source = _sources(source_key, index.shape, config.risk_share)
    risk = extreme_actions(config, world, start, data.action.shape[-1], risk_key)
    logged = logged_actions(data, index, config.horizon)
    noise = config.noise * jax.random.normal(noise_key, logged.shape)
    logged = jnp.clip(logged + noise, -1.0, 1.0)
    return start, jnp.where((source == RISK)[..., None, None], risk, logged), source


def _escape_from(
    config: RolloutConfig,
    world: World,
    policy: Callable[[Array, Array], jax.Array],
    found: Imagined,
    shape: tuple[int, int],
    key: Array,
) -> Imagined:
    """`shape [K, E]` trajectories that try to get out of what was imagined."""
    step_key, plan_key, walk_key = jax.random.split(key, 3)
    members, escapes = shape
    amid = jax.tree.map(lambda x: x.reshape(members, -1, *x.shape[1:])[:, :escapes], found)
    step = jnp.floor(jax.random.uniform(step_key, shape) * amid.length).astype(jnp.int32)
    start = jnp.take_along_axis(amid.obs, step[..., None, None], axis=2)[:, :, 0]
    actions = found.action.shape[-1]
    return escape(config, world, policy, start, actions, (plan_key, walk_key))


def escape(
    config: RolloutConfig,
    world: World,
    policy: Callable[[Array, Array], jax.Array],
    start: Array,
    actions: int,
    keys: tuple[Array, Array],
) -> Imagined:
    """The least risky of several sequences of actions, from each start `[K, E, O]`."""
    plan = extreme_actions(config, world, start, actions, keys[0], -1.0)
    source = jnp.full(start.shape[:2], ESCAPE, jnp.int32)
    return imagine(world, policy, start, plan, source, keys[1])


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
        next_obs, disagreement = world.predict(obs, action)
        known = disagreement <= world.limit
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


def extreme_actions(
    config: RolloutConfig, world: World, start: Array, actions: int, key: Array, sign: float = 1.0
) -> jax.Array:
    """From each start, of several persistent sequences the one imagined riskiest.

    Args:
      start: `[K, B, O]`.
      sign: -1 for the least risky.

    Returns:
      `[K, B, H, A]`.
    """
    members, starts, _ = start.shape
    shape = (config.horizon, members, starts, config.candidates, actions)
    plans = persistent_actions(key, shape, config.persistence)
    begin = jnp.broadcast_to(start[:, :, None], (*shape[1:-1], start.shape[-1]))
    worst = follow(
        world.step,
        lambda worst, obs: jnp.maximum(worst, world.score(obs)),
        plans,
        begin,
        jnp.full(shape[1:-1], -jnp.inf),
    )
    best = jnp.argmax(sign * worst, axis=-1)[None, :, :, None, None]
    chosen = jnp.take_along_axis(plans, best, axis=3)[..., 0, :]
    return jnp.moveaxis(chosen, 0, 2)


def follow(
    step: Callable[[Array, Array], jax.Array],
    fold: Callable[[Array, Array], jax.Array],
    plans: Array,
    start: Array,
    first: Array,
) -> jax.Array:
    """What sequences of actions come to, `[...]`, when the model follows them.

    Args:
      step: obs `[..., O]` and actions `[..., A]` to the next obs.
      fold: what it came to so far `[...]` and the next obs, to what it comes to then.
      plans: `[H, ..., A]`.
      start: `[..., O]`.
      first: `[...]`, what `fold` begins with.
    """

    def one(carry: tuple[Array, Array], action: Array) -> tuple:
        obs, total = carry
        obs = step(obs, action)
        return (obs, fold(total, obs)), None

    return jax.lax.scan(one, (start, first), plans)[0][1]


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
    for name, source in _SOURCES.items():
        mine = data.source == source
        share = jnp.sum(mine & bad) / jnp.maximum(jnp.sum(mine), 1)
        report[f"rollouts/violating_share_{name}"] = share
    return report


def _sources(key: Array, shape: tuple[int, ...], risk_share: float) -> jax.Array:
    point = jax.random.uniform(key, shape)
    other = jnp.where(point < (1.0 + risk_share) / 2.0, BEHAVIOR, POLICY)
    return jnp.where(point < risk_share, RISK, other).astype(jnp.int32)
