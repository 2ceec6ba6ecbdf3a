"""What a deployed policy does: what its agent proposes, or the way out that the model sees.

Where none of the agent's actions is feasible, the one with the lowest Q_h is
little better than the others: one step moves a robot by a centimetre. What
brings it out is a manoeuvre that lasts, and that is found by imagining several.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from proco_jax.algorithms import feasibility, proco
from proco_jax.augmentation.rollouts import follow, persistent_actions
from proco_jax.config.schema import AgentConfig
from proco_jax.models import dynamics
from proco_jax.models.normalizer import Scale
from proco_jax.training.loop import Parts
from proco_jax.types import Array

_PLANS = 0


def act(
    parts: Parts,
    scale: Scale,
    model: dynamics.Model | None,
    agents: proco.AgentState,
    obs: Array,
    keys: Array,
    counts: Array | bool = True,
) -> jax.Array:
    """The actions `[S, n, A]` of S policies, each in n states.

    Args:
      model: imagines the way out; its leaves have a leading axis S with
        `dynamics.per_seed`. None takes what the agents propose.
      agents: leaves with a leading axis S.
      obs: `[S, n, O]` raw.
      keys: `[S, n]` typed keys.
      counts: `[S, n]` whose action matters; for the others no way out is looked for.
    """
    config = parts.config
    propose = functools.partial(proco.propose, config.agent, parts.agent)
    each = jax.vmap(jax.vmap(propose, in_axes=(None, 0, 0)))
    action, danger = each(agents, scale(obs), keys)
    if model is None or not config.agent.escapes:
        return action

    def search(policy: Array, start: Array) -> jax.Array:
        agent = jax.tree.map(lambda x: x[policy], agents)
        own = jax.tree.map(lambda x: x[policy], model) if config.dynamics.per_seed else model

        def step(o: Array, a: Array) -> jax.Array:
            return dynamics.predict(parts.dynamics, own, jnp.int32(0), o, a).next_obs

        def vh(o: Array) -> jax.Array:
            return feasibility.vh(parts.agent.feasibility, agent.feasibility.params, scale(o))

        persistence = config.rollouts.persistence
        return escape(config.agent, persistence, step, vh, start, action.shape[-1])

    def one(inputs: tuple[Array, ...]) -> jax.Array:
        policy, proposed, lost, start = inputs
        return jax.lax.cond(lost, lambda: search(policy, start), lambda: proposed)

    # One after the other, so that only those are searched for that need it.
    policies = jnp.broadcast_to(jnp.arange(keys.shape[0])[:, None], keys.shape)
    lost = (danger > config.agent.escape_above) & counts
    inputs = (policies, action, lost, obs)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs)
    return jax.lax.map(one, flat).reshape(action.shape)


def escape(
    config: AgentConfig,
    persistence: float,
    step: Callable[[Array, Array], jax.Array],
    vh: Callable[[Array], jax.Array],
    start: Array,
    actions: int,
) -> jax.Array:
    """The first action `[A]` of the imagined sequence that is infeasible least and shortest.

    The sequences are random but always the same: with others at every step a
    robot that has come to rest on an edge takes a new way out each time, and stays.

    Args:
      persistence: mean number of steps that the random actions are held.
      step: obs `[N, O]` and actions `[N, A]` to the next obs.
      vh: obs `[N, O]` to V_h `[N]`.
      start: `[O]` raw.
      actions: A.
    """
    shape = (config.escape_horizon, config.escapes, actions)
    plans = persistent_actions(jax.random.key(_PLANS), shape, persistence)
    begin = jnp.broadcast_to(start, (config.escapes, *start.shape))
    total = follow(
        step,
        lambda total, obs: total + jnp.maximum(vh(obs), 0.0),
        plans,
        begin,
        jnp.zeros(config.escapes),
    )
    # A model gone astray may say anything; what is not finite is no way out.
    total = jnp.where(jnp.isfinite(total), total, jnp.inf)
    return plans[0, jnp.argmin(total)]
