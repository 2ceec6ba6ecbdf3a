"""Imagined rollouts: counterfactual samples, unsafe ones among them, that the logs lack.

Starts are laid out `[K, B]`: in the search for risky actions, each of the K elites predicts one
dense block. The trajectories that are kept follow the mean of all elites: whether a state is unsafe
depends on the largest of a ring's bins, so the noise of a single elite would create violations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from proco_jax.config.schema import ExplorationConfig, RolloutConfig
from proco_jax.models.dynamics import MeanPrediction
from proco_jax.types import Array, Dataset

RISK, BEHAVIOR, POLICY, RECOVERY = 0, 1, 2, 3
# The origin of a trajectory that belongs to no logged episode.
NOWHERE = -1
Settings = RolloutConfig | ExplorationConfig
_SOURCES = {"risk": RISK, "behavior": BEHAVIOR, "policy": POLICY, "recovery": RECOVERY}


class Hyper(NamedTuple):
    """Hyperparameters of rollouts, see `config.schema.RolloutConfig`."""

    risk_share: Array
    risky_start_share: Array
    noise: Array
    persistence: Array


def unchanged(x: Array) -> Array:
    """The array itself: where an imagined state is no more than an observation."""
    return x


class RolloutModel(NamedTuple):
    """What a rollout asks of the model, as functions of raw observations and imagined states.

    Attributes:
      step: states `[K, ..., S]` and actions `[K, ..., A]` to the next states, elite k predicting
        block k.
      predict: states `[..., S]` and actions `[..., A]` to the mean prediction of all elites.
      score: obs `[..., O]` to `[...]`, higher is riskier.
      unsafe: next obs `[..., O]` and the disagreement `[...]` with which it was predicted, to
        `[...]` bool.
      limit: disagreement above which a rollout ends.
      ends: obs `[..., O]` to `[...]` bool, whether the state ends an episode; None if none does.
      begin: obs `[..., O]` to the state `[..., S]` that an imagined trajectory begins with.
      observe: states to obs.
    """

    step: Callable[[Array, Array], jax.Array]
    predict: Callable[[Array, Array], MeanPrediction]
    score: Callable[[Array], jax.Array]
    unsafe: Callable[[Array, Array], jax.Array]
    limit: Array
    ends: Callable[[Array], jax.Array] | None = None
    begin: Callable[[Array], Array] = unchanged
    observe: Callable[[Array], Array] = unchanged


class Imagined(NamedTuple):
    """M imagined trajectories.

    Attributes:
      obs: `[M, H + 1, O]` raw.
      action: `[M, H, A]`.
      reward: `[M, H]`, the usual part of the predicted reward.
      unsafe: `[M, H]` bool, of the next state.
      length: `[M]` int32, steps for which the elites agree, without one that ends the episode.
      source: `[M]` int32, RISK, BEHAVIOR, POLICY or RECOVERY.
      origin: `[M]` int32, the logged transition in whose place the trajectory begins: in its state,
        or, if the source is RECOVERY, at its time step; NOWHERE if there is none.
    """

    obs: Array
    action: Array
    reward: Array
    unsafe: Array
    length: Array
    source: Array
    origin: Array


def generate(
    config: Settings,
    hyper: Hyper,
    model: RolloutModel,
    policy: Callable[[Array, Array], jax.Array],
    data: Dataset,
    risky: Array,
    elites: int,
    key: Array,
) -> Imagined:
    """One regeneration: starts from the logs, actions from the mixture, labels of next states.

    It is followed by `config.recovery_share` as many recovery rollouts, which start within the
    trajectories imagined so far and take the least risky of several action sequences. Without them
    every imagined state on the way to a violation is followed by one, and states from which it is
    still avoidable look infeasible.

    Args:
      policy: key and raw obs `[..., O]` to actions `[..., A]`.
      data: the logs.
      risky: `[R]` indices of transitions whose states are close to the unsafe set.
      elites: K.

    Returns:
      K * (`config.starts` + recovery rollouts) trajectories of `config.horizon` steps.
    """
    start_key, plan_key, walk_key, recovery_key = jax.random.split(key, 4)
    shape = (elites, config.starts)
    index = sample_starts(start_key, shape, data.size, risky, hyper.risky_start_share)
    start, plan, source = plan_actions(config, hyper, model, data, index, plan_key)
    found = imagine(model, policy, start, plan, source, walk_key)
    found = found._replace(origin=index.reshape(-1).astype(jnp.int32))
    recoveries = recovery_rollouts(config)
    if not recoveries:
        return found
    shape = (elites, recoveries)
    recovered = _recover_from(config, hyper, model, policy, data, found, shape, recovery_key)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), found, recovered)


def generated_shapes(config: Settings, data: Dataset, elites: int) -> Imagined:
    """Shapes and types of what `generate` returns, without its trace."""
    count, horizon = elites * (config.starts + recovery_rollouts(config)), config.horizon

    def like(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    return Imagined(
        obs=like(data.obs.dtype, horizon + 1, data.obs.shape[-1]),
        action=like(data.action.dtype, horizon, data.action.shape[-1]),
        reward=like(data.reward.dtype, horizon),
        unsafe=like(jnp.bool_, horizon),
        length=like(jnp.int32),
        source=like(jnp.int32),
        origin=like(jnp.int32),
    )


def recovery_rollouts(config: Settings) -> int:
    """Recovery rollouts of each elite."""
    return round(config.recovery_share * config.starts)


def plan_actions(
    config: Settings,
    hyper: Hyper,
    model: RolloutModel,
    data: Dataset,
    index: Array,
    key: Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mixture of actions, from logged transitions `index [K, B]` on.

    Returns:
      Starts `[K, B, O]`, planned actions `[K, B, H, A]` and sources `[K, B]`.
    """
    source_key, risk_key, noise_key = jax.random.split(key, 3)
    start = data.obs[data.obs_index[index]]
    source = _draw_sources(source_key, index.shape, hyper.risk_share)
    risk = extreme_actions(config, hyper, model, start, data.action.shape[-1], risk_key)
    logged = logged_actions(data, index, config.horizon)
    noise = hyper.noise * jax.random.normal(noise_key, logged.shape)
    logged = jnp.clip(logged + noise, -1.0, 1.0)
    return start, jnp.where((source == RISK)[..., None, None], risk, logged), source


def recover(
    config: Settings,
    hyper: Hyper,
    model: RolloutModel,
    policy: Callable[[Array, Array], jax.Array],
    start: Array,
    actions: int,
    keys: tuple[Array, Array],
) -> Imagined:
    """Rollouts of the least risky of several action sequences, from each start `[K, B, O]`."""
    plan = extreme_actions(config, hyper, model, start, actions, keys[0], -1.0)
    source = jnp.full(start.shape[:2], RECOVERY, jnp.int32)
    return imagine(model, policy, start, plan, source, keys[1])


def imagine(
    model: RolloutModel,
    policy: Callable[[Array, Array], jax.Array],
    start: Array,
    plan: Array,
    source: Array,
    key: Array,
) -> Imagined:
    """Follows planned actions, or the policy, through the model and labels the next states.

    Args:
      start: `[K, B, O]`.
      plan: `[K, B, H, A]`, taken where `source` is not POLICY.
      source: `[K, B]`.
    """
    chex.assert_equal_shape_prefix([start, plan, source], 2)

    def step(carry: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple:
        state, alive = carry
        planned, step_key = inputs
        by_policy = (source == POLICY)[..., None]
        action = jnp.where(by_policy, policy(step_key, model.observe(state)), planned)
        next_state, reward, disagreement = model.predict(state, action)
        # Far from the logs a model may return anything; what is not finite is not kept.
        finite = jnp.all(jnp.isfinite(next_state), axis=-1) & jnp.isfinite(reward)
        next_state = jnp.where(finite[..., None], next_state, state)
        next_obs = model.observe(next_state)
        alive = alive & finite & (disagreement <= model.limit)
        if model.ends is not None:
            alive = alive & ~model.ends(next_obs)
        unsafe = model.unsafe(next_obs, disagreement)
        return (next_state, alive), (action, next_obs, jnp.nan_to_num(reward), unsafe, alive)

    horizon = plan.shape[2]
    keys = jax.random.split(key, horizon)
    alive = jnp.ones(source.shape, bool)
    begun = (model.begin(start), alive)
    _, found = jax.lax.scan(step, begun, (jnp.moveaxis(plan, 2, 0), keys))
    action, next_obs, reward, unsafe, alive = (jnp.moveaxis(x, 0, 2) for x in found)
    obs = jnp.concatenate([start[:, :, None], next_obs], axis=2)
    length = alive.sum(2, dtype=jnp.int32)
    origin = jnp.full(source.shape, NOWHERE, jnp.int32)
    imagined = Imagined(obs, action, reward, unsafe, length, source, origin)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), imagined)


def extreme_actions(
    config: Settings,
    hyper: Hyper,
    model: RolloutModel,
    start: Array,
    actions: int,
    key: Array,
    sign: float = 1.0,
) -> jax.Array:
    """From each start, the riskiest of several persistent random action sequences.

    Args:
      start: `[K, B, O]`.
      sign: -1 for the least risky.

    Returns:
      `[K, B, H, A]`.
    """
    elites, starts, _ = start.shape
    shape = (config.horizon, elites, starts, config.candidates, actions)
    plans = persistent_actions(key, shape, hyper.persistence)
    state = model.begin(start)[:, :, None]
    begin = jnp.broadcast_to(state, (*shape[1:-1], state.shape[-1]))
    worst = evaluate_plans(
        model.step,
        lambda worst, state: jnp.maximum(worst, model.score(model.observe(state))),
        plans,
        begin,
        jnp.full(shape[1:-1], -jnp.inf),
    )
    best = jnp.argmax(sign * worst, axis=-1)[None, :, :, None, None]
    chosen = jnp.take_along_axis(plans, best, axis=3)[..., 0, :]
    return jnp.moveaxis(chosen, 0, 2)


def evaluate_plans(
    step: Callable[[Array, Array], jax.Array],
    fold: Callable[[Array, Array], jax.Array],
    plans: Array,
    start: Array,
    first: Array,
) -> jax.Array:
    """Folds a function over the states that action sequences reach in the model, `[...]`.

    Args:
      step: states `[..., S]` and actions `[..., A]` to the next states.
      fold: (result so far `[...]`, next states) to the new result.
      plans: `[H, ..., A]`.
      start: `[..., S]`.
      first: `[...]`, the initial result.
    """

    def one(carry: tuple[Array, Array], action: Array) -> tuple:
        state, total = carry
        state = step(state, action)
        return (state, fold(total, state)), None

    return jax.lax.scan(one, (start, first), plans)[0][1]


def persistent_actions(key: Array, shape: tuple[int, ...], persistence: Array | float) -> jax.Array:
    """Uniform random actions that are held for about `persistence` steps, `[H, ..., A]`."""
    fresh_key, hold_key = jax.random.split(key)
    fresh = jax.random.uniform(fresh_key, shape, minval=-1.0, maxval=1.0)
    renew = jax.random.bernoulli(hold_key, 1.0 / jnp.maximum(persistence, 1.0), (*shape[:-1], 1))

    def step(held: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        new, change = inputs
        held = jnp.where(change, new, held)
        return held, held

    return jax.lax.scan(step, fresh[0], (fresh, renew))[1]


def logged_actions(data: Dataset, index: Array, horizon: int) -> jax.Array:
    """The logged actions from `index [...]` on: `[..., H, A]`, the last one of an episode held."""
    ahead = jnp.minimum(jnp.arange(horizon), data.remaining[index][..., None])
    return data.action[index[..., None] + ahead]


def sample_starts(
    key: Array, shape: tuple[int, ...], size: int, risky: Array, risky_share: Array | float
) -> jax.Array:
    """Indices of logged transitions, a share of them from `risky`."""
    pick_key, any_key, risky_key = jax.random.split(key, 3)
    anywhere = jax.random.randint(any_key, shape, 0, size)
    near = risky[jax.random.randint(risky_key, shape, 0, risky.shape[0])]
    return jnp.where(jax.random.bernoulli(pick_key, risky_share, shape), near, anywhere)


def violates(data: Imagined) -> jax.Array:
    """Whether a trajectory reaches an unsafe state within its length, `[M]` bool."""
    known = jnp.arange(data.unsafe.shape[-1]) < data.length[..., None]
    return jnp.any(data.unsafe & known, axis=-1)


def summary(data: Imagined) -> dict[str, jax.Array]:
    """Mean length, and share of violating trajectories in all and by source of actions."""
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


def _recover_from(
    config: Settings,
    hyper: Hyper,
    model: RolloutModel,
    policy: Callable[[Array, Array], jax.Array],
    data: Dataset,
    found: Imagined,
    shape: tuple[int, int],
    key: Array,
) -> Imagined:
    """Recovery rollouts, `shape [K, R]` of them, from random steps of imagined trajectories."""
    step_key, plan_key, walk_key = jax.random.split(key, 3)
    elites, recoveries = shape
    amid = jax.tree.map(lambda x: x.reshape(elites, -1, *x.shape[1:])[:, :recoveries], found)
    step = jnp.floor(jax.random.uniform(step_key, shape) * amid.length).astype(jnp.int32)
    start = jnp.take_along_axis(amid.obs, step[..., None, None], axis=2)[:, :, 0]
    keys = (plan_key, walk_key)
    recovered = recover(config, hyper, model, policy, start, found.action.shape[-1], keys)
    # At the end of the logged episode if the trajectory has gone on for longer.
    origin = amid.origin + jnp.minimum(step, data.remaining[amid.origin])
    return recovered._replace(origin=origin.reshape(-1))


def _draw_sources(key: Array, shape: tuple[int, ...], risk_share: Array | float) -> jax.Array:
    point = jax.random.uniform(key, shape)
    other = jnp.where(point < (1.0 + risk_share) / 2.0, BEHAVIOR, POLICY)
    return jnp.where(point < risk_share, RISK, other).astype(jnp.int32)
