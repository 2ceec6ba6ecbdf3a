"""The compiled loops: one program for all seeds, host work only between chunks.

`train_chunk = jit(vmap over seeds (scan over steps))` holds batch sampling,
regeneration of imagined rollouts under the current policy, their labelling by
the cost network, feasibility critics, reward critics and policy. Large arrays
are arguments, never constants of the program.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms import feasibility, proco
from proco_jax.augmentation import buffer, rollouts
from proco_jax.config.schema import Config
from proco_jax.models import cost, dynamics
from proco_jax.models.networks import Critic, DynamicsNetwork
from proco_jax.models.normalizer import Scale
from proco_jax.observation import ObservationSpec
from proco_jax.training.sampling import gather, steps_ahead
from proco_jax.types import Array, Dataset, Transition


class Parts(NamedTuple):
    """What is fixed when the program is compiled: config and networks."""

    config: Config
    spec: ObservationSpec
    dynamics: DynamicsNetwork
    cost: Critic
    agent: proco.Networks


class Knowledge(NamedTuple):
    """What PROCO adds to the logs.

    Attributes:
      model: the fitted dynamics.
      cost: the fitted cost network.
      unsafe: `[N]` bool, what the cost network says of each logged next state.
      risky: `[R]` indices of the logged transitions that it fears most.
      fixed: trajectories to learn from instead of ever new imagined ones.
    """

    model: dynamics.Model
    cost: cost.CostModel
    unsafe: Array
    risky: Array
    fixed: buffer.Buffer | None = None


class Context(NamedTuple):
    """The arrays that training reads and never changes.

    Attributes:
      data: the logs.
      scale: of the observations.
      knowledge: None for the baseline; with `dynamics.per_seed` its leaves have
        a leading axis S.
    """

    data: Dataset
    scale: Scale
    knowledge: Knowledge | None


@struct.dataclass
class TrainState:
    """One seed's training.

    Attributes:
      agent: what is learned.
      buffer: imagined trajectories; None where none are imagined.
      step: gradient steps done.
      key: typed key; a step derives its own by folding in `step`.
    """

    agent: proco.AgentState
    buffer: buffer.Buffer | None
    step: Array
    key: Array


def make_parts(config: Config, spec: ObservationSpec, actions: int) -> Parts:
    """The networks of a run on observations of `spec` with so many action dimensions."""
    encoder = cost.encoder(config.encoder, spec)
    return Parts(
        config=config,
        spec=spec,
        dynamics=dynamics.network(config.dynamics, spec),
        cost=cost.network(config.cost, config.encoder, spec),
        agent=proco.networks(config.agent, config.feasibility, encoder, actions),
    )


def seed_keys(seed: int, count: int) -> jax.Array:
    """A typed key for each seed `seed, seed + 1, ...`, `[count]`."""
    return jax.vmap(jax.random.key)(jnp.arange(seed, seed + count))


def make_train_init(parts: Parts) -> Callable[[Context, Array], TrainState]:
    """A compiled function of context and keys `[S]` to states with leading axis S."""

    def one(context: Context, key: Array) -> TrainState:
        agent_key, step_key = jax.random.split(key)
        agent = proco.init(parts.config.agent, parts.agent, agent_key)
        state = TrainState(agent, None, jnp.int32(0), step_key)
        if not _imagines(parts, context):
            return state
        like = jax.eval_shape(lambda: _regenerate(parts, context, state, step_key))
        empty = buffer.empty_buffer(parts.config.rollouts.generations, like)
        state = dataclasses.replace(state, buffer=empty)

        def warm(state: TrainState, key: Array) -> tuple[TrainState, None]:
            new = _regenerate(parts, context, state, key)
            assert state.buffer is not None
            return dataclasses.replace(state, buffer=buffer.add(state.buffer, new)), None

        keys = jax.random.split(
            jax.random.fold_in(step_key, 2**32 - 1), parts.config.rollouts.warmup
        )
        return jax.lax.scan(warm, state, keys)[0]

    def init(context: Context, keys: Array) -> TrainState:
        return jax.vmap(one, in_axes=(_context_axes(parts), 0))(context, keys)

    return jax.jit(init)


def make_train_chunk(
    parts: Parts,
) -> Callable[[Context, TrainState], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled chunk: context and states `[S]` to states and metrics `[S]`.

    The states are donated. A chunk is `train.chunk` gradient steps with a
    regeneration of imagined rollouts before every `rollouts.interval` of them.
    """
    config = parts.config
    intervals = config.train.chunk // config.rollouts.interval

    def interval(context: Context, state: TrainState, _: None) -> tuple[TrainState, Any]:
        metrics = {}
        if _imagines(parts, context):
            key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
            new = _regenerate(parts, context, state, key)
            metrics = rollouts.summary(new)
            assert state.buffer is not None
            state = dataclasses.replace(state, buffer=buffer.add(state.buffer, new))
        step = functools.partial(train_step, parts, context)
        state, learned = jax.lax.scan(
            lambda s, _: step(s), state, None, length=config.rollouts.interval
        )
        return state, metrics | _mean(learned)

    def one(context: Context, state: TrainState) -> tuple[TrainState, Any]:
        state, metrics = jax.lax.scan(
            functools.partial(interval, context), state, None, length=intervals
        )
        return state, _mean(metrics)

    def chunk(context: Context, state: TrainState) -> tuple[TrainState, Any]:
        return jax.vmap(one, in_axes=(_context_axes(parts), 0))(context, state)

    return jax.jit(chunk, donate_argnums=1)


def train_step(
    parts: Parts, context: Context, state: TrainState
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One gradient step of one seed on a fresh batch."""
    config = parts.config
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
    logged_key, imagined_key = jax.random.split(key)
    index = jax.random.randint(logged_key, (config.train.batch,), 0, context.data.size)
    logged = gather(config.agent, context.data, context.scale, index)
    batch = _logged_batch(parts, context, index, logged)
    if context.knowledge is not None and config.proco.imagined_share > 0:
        imagined = _imagined_batch(parts, context, state, imagined_key)
        batch = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, imagined)
    # As in IQL: at a constant rate the policy goes on to fit the noise of the logs.
    rate = optax.cosine_decay_schedule(1.0, config.train.steps)(state.step)
    agent, metrics = proco.update(
        config.agent, config.feasibility, parts.agent, state.agent, logged, batch, rate
    )
    return dataclasses.replace(state, agent=agent, step=state.step + 1), metrics


def make_world(
    parts: Parts, model: dynamics.Model, cost_model: cost.CostModel | None
) -> rollouts.World:
    """The fitted model and cost network, as the functions that rollouts ask for.

    Without a cost network nothing is unsafe and all states score 0.
    """
    members = jnp.arange(model.elites.shape[0])

    def step(obs: Array, action: Array) -> jax.Array:
        def one(member: Array, o: Array, a: Array) -> jax.Array:
            return dynamics.predict(parts.dynamics, model, member, o, a)[0]

        return jax.vmap(one)(members, obs, action)

    def score(obs: Array) -> jax.Array:
        if cost_model is None:
            return jnp.zeros(obs.shape[:-1])
        return cost.score(parts.cost, cost_model, obs)

    return rollouts.World(
        step=step,
        predict=lambda o, a: dynamics.predict_mean(parts.dynamics, model, o, a),
        score=score,
        unsafe=lambda o: score(o) >= (jnp.inf if cost_model is None else cost_model.threshold),
        limit=model.limit,
    )


def make_dynamics_chunk(parts: Parts) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Compiled: targets, scale, train and holdout data, states `[M]`, one look ahead."""
    config, net = parts.config.dynamics, parts.dynamics

    def one(
        targets: Any, scale: Scale, data: Dataset, holdout: Dataset, state: Any
    ) -> tuple[Any, dict[str, jax.Array]]:
        state, metrics = jax.lax.scan(
            lambda s, _: dynamics.update(config, net, targets, scale, data, s),
            state,
            None,
            length=config.holdout_every,
        )
        state, seen = dynamics.look(net, targets, scale, holdout, state)
        return state, _mean(metrics) | seen

    return jax.jit(jax.vmap(one, in_axes=(None, None, None, None, 0)), donate_argnums=4)


def make_cost_chunk(parts: Parts, steps: int) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Compiled: labels and states `[M]` to states after so many steps, and metrics."""

    def one(labels: cost.Labels, state: cost.CostState) -> tuple[Any, dict[str, jax.Array]]:
        state, metrics = jax.lax.scan(
            lambda s, _: cost.update(parts.config.cost, parts.cost, labels, s),
            state,
            None,
            length=steps,
        )
        return state, _mean(metrics)

    return jax.jit(jax.vmap(one, in_axes=(None, 0)), donate_argnums=1)


def _regenerate(parts: Parts, context: Context, state: TrainState, key: Array) -> rollouts.Imagined:
    assert context.knowledge is not None
    known = context.knowledge
    return rollouts.generate(
        parts.config.rollouts,
        make_world(parts, known.model, known.cost),
        functools.partial(policy, parts, context.scale, state.agent),
        context.data,
        known.risky,
        known.model.elites.shape[0],
        key,
    )


def policy(
    parts: Parts, scale: Scale, agent: proco.AgentState, key: Array, obs: Array
) -> jax.Array:
    """The policy sampled on raw obs `[..., O]`, as rollouts ask for it: actions `[..., A]`."""
    return proco.sample(parts.agent, agent, scale(obs), key)


def _logged_batch(
    parts: Parts, context: Context, index: Array, logged: Transition
) -> feasibility.Batch:
    at, within = steps_ahead(parts.config.agent, context.data, index)
    unsafe = context.data.cost[at] > 0
    if context.knowledge is not None:
        unsafe = unsafe | context.knowledge.unsafe[at]
    return feasibility.Batch(
        obs=logged.obs,
        action=logged.action,
        h=feasibility.constraint_value(parts.config.feasibility, unsafe & within),
        next_obs=logged.next_obs,
        obs_ahead=logged.ahead.obs,
        discount=logged.discount,
        weight=jnp.ones_like(logged.discount),
    )


def _imagined_batch(
    parts: Parts, context: Context, state: TrainState, key: Array
) -> feasibility.Batch:
    proco_config = parts.config.proco
    share = proco_config.imagined_share
    size = max(1, round(parts.config.train.batch * share / max(1.0 - share, 1e-3)))
    assert context.knowledge is not None
    held = state.buffer if _imagines(parts, context) else context.knowledge.fixed
    assert held is not None
    found = buffer.sample(
        held, size, proco_config.violating_share, parts.config.agent.lookahead, key
    )
    return feasibility.Batch(
        obs=context.scale(found.obs),
        action=found.action,
        h=feasibility.constraint_value(parts.config.feasibility, found.unsafe),
        next_obs=context.scale(found.next_obs),
        obs_ahead=context.scale(found.obs_ahead),
        discount=jnp.ones(size),
        weight=found.weight,
    )


def _imagines(parts: Parts, context: Context) -> bool:
    """Whether training imagines trajectories as it goes."""
    known = context.knowledge
    return known is not None and known.fixed is None and parts.config.proco.imagined_share > 0


def _context_axes(parts: Parts) -> Any:
    """Logs are shared; knowledge has a leading axis where each seed has its own fit."""
    return Context(None, None, 0 if parts.config.dynamics.per_seed else None)  # pyright: ignore


def _mean(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
