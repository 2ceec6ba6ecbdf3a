"""Feasibility critics: which states still have a way to stay safe.

Q_h(s, a) and V_h(s) follow the discounted Hamilton-Jacobi backup of FISOR
(Zheng et al. 2024). V_h(s) <= 0 means feasible: some supported action keeps
every later state safe.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.config.schema import AgentConfig, FeasibilityConfig
from proco_jax.models import losses
from proco_jax.models.networks import Critic, Encoder, apply
from proco_jax.types import Array


class Networks(NamedTuple):
    """Q_h with two heads and V_h with one."""

    q: Critic
    v: Critic


class Batch(NamedTuple):
    """Samples for the critics, logged and imagined.

    Attributes:
      obs: `[B, O]` scaled.
      action: `[B, A]`.
      h: `[B, n]`, constraint values of the next n states; safe behind a trajectory's end.
      next_obs: `[B, O]` scaled, the first of them.
      obs_ahead: `[B, O]` scaled, the last of them, or of the trajectory.
      discount: `[B]`, 0 at a true termination.
      weight: `[B]` weight of the sample in the loss.
    """

    obs: Array
    action: Array
    h: Array
    next_obs: Array
    obs_ahead: Array
    discount: Array
    weight: Array


@struct.dataclass
class FeasibilityState:
    """Parameters `{"q", "v"}`, the moving average of q's, and the optimiser's state."""

    params: Any
    target_q: Any
    optimizer: optax.OptState


def networks(config: FeasibilityConfig, hidden: Sequence[int], encoder: Encoder) -> Networks:
    """The critics' networks, at first as if every state were safe for ever.

    From 0, the value of a safe state would sink to `config.safe` by one part in
    1 / (1 - discount) a backup, and for thousands of steps noise would decide
    which states count as feasible. What is unsafe is learned at once, as it
    stands in the data.
    """
    q, v = (Critic(encoder, hidden, heads, config.safe) for heads in (2, 1))
    return Networks(q, v)


def init(config: AgentConfig, nets: Networks, actions: int, key: Array) -> FeasibilityState:
    """Fresh critics."""
    q_key, v_key = jax.random.split(key)
    obs, action = jnp.zeros(nets.v.encoder.spec.size), jnp.zeros(actions)
    params = {"q": nets.q.init(q_key, obs, action), "v": nets.v.init(v_key, obs)}
    target_q = jax.tree.map(jnp.copy, params["q"])
    return FeasibilityState(params, target_q, optax.adam(config.learning_rate).init(params))


def constraint_value(config: FeasibilityConfig, unsafe: Array) -> jax.Array:
    """h of states: `config.unsafe` where unsafe, else `config.safe`."""
    return jnp.where(unsafe, config.unsafe, config.safe)


def update(
    config: FeasibilityConfig,
    agent_config: AgentConfig,
    nets: Networks,
    state: FeasibilityState,
    batch: Batch,
) -> tuple[FeasibilityState, dict[str, jax.Array]]:
    """One gradient step of Q_h and V_h, and of the target's moving average."""
    optimizer = optax.adam(agent_config.learning_rate)

    def loss(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return critic_loss(config, nets, params, state.target_q, batch)

    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.optimizer)
    params: Any = optax.apply_updates(state.params, updates)
    target_q = optax.incremental_update(params["q"], state.target_q, config.target_rate)
    return FeasibilityState(params, target_q, opt_state), metrics


def critic_loss(
    config: FeasibilityConfig, nets: Networks, params: Any, target_q: Any, batch: Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Squared error of both Q_h, and V_h's expectile regression on the larger of them.

    The larger, because overlooking a violation is worse than fearing one; the
    lower expectile, because V_h asks for the best supported action.
    """
    chex.assert_rank([batch.obs, batch.h, batch.weight], [2, 2, 1])
    next_v = apply(nets.v, params["v"], batch.next_obs)[..., 0]
    target = losses.reachability_target(
        batch.h[:, 0], next_v, batch.discount, config.discount, config.duration
    )
    # A worst h lies between the two there are; a critic's error need not.
    target = jnp.clip(target, config.safe, config.unsafe)
    q = apply(nets.q, params["q"], batch.obs, batch.action)
    supported = jnp.max(apply(nets.q, target_q, batch.obs, batch.action), axis=-1)
    v = apply(nets.v, params["v"], batch.obs)[..., 0]
    total = jnp.maximum(jnp.sum(batch.weight), 1.0)
    q_loss = jnp.sum(batch.weight[:, None] * jnp.square(q - target[:, None])) / total
    error = jax.lax.stop_gradient(supported) - v
    v_loss = jnp.sum(batch.weight * losses.expectile_loss(error, 1.0 - config.expectile)) / total
    infeasible = jnp.sum(batch.weight * (v > 0)) / total
    metrics = {
        "feasibility/q_loss": q_loss,
        "feasibility/v_loss": v_loss,
        "feasibility/infeasible_share": infeasible,
    }
    return q_loss + v_loss, metrics


def outcome(config: FeasibilityConfig, nets: Networks, params: Any, batch: Batch) -> jax.Array:
    """What came of each sample's action `[B]`: the backup over the n steps that followed.

    One step moves a robot by a centimetre, so that Q_h of the best action and
    of the worst differ by less than its error; after n steps they don't.
    """
    last = vh(nets, params, batch.obs_ahead)

    def back(later: Array, h: Array) -> tuple[Array, None]:
        goes_on = jnp.ones_like(h)
        return losses.reachability_target(h, later, goes_on, config.discount, config.duration), None

    return jax.lax.scan(back, last, batch.h.T, reverse=True)[0]


def qh(nets: Networks, params: Any, obs: Array, action: Array) -> jax.Array:
    """The larger Q_h `[...]` of scaled observations and actions."""
    return jnp.max(apply(nets.q, params["q"], obs, action), axis=-1)


def vh(nets: Networks, params: Any, obs: Array) -> jax.Array:
    """V_h `[...]` of scaled observations; at most 0 means feasible."""
    return apply(nets.v, params["v"], obs)[..., 0]
