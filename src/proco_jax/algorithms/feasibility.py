"""Feasibility critics: which states still have a way to stay safe.

Q_h(s, a) and V_h(s) follow the discounted Hamilton-Jacobi backup of FISOR (Zheng et al. 2024).
V_h(s) <= 0 means feasible: some supported action keeps every later state safe. The critics are
trained beside any algorithm, on the batches that its augmentation makes; algorithms that need them
in their own losses (PROCO's, FISOR) use the same code.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms.base import Metrics
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import FeasibilityConfig
from proco_jax.models import losses
from proco_jax.models.networks import Critic, Encoder, apply, copied_encoder
from proco_jax.types import Array, Transition


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.FeasibilityConfig`."""

    learning_rate: Array
    unsafe: Array
    safe: Array
    discount: Array
    violation_discount: Array
    expectile: Array
    tau: Array


class Networks(NamedTuple):
    """Q_h with two heads and V_h with one."""

    q: Critic
    v: Critic


@struct.dataclass
class FeasibilityState:
    """Parameters `{"q", "v"}`, the moving average of those of q, and the optimizer's state."""

    params: Any
    target_q: Any
    optimizer: optax.OptState


def make_hyper(config: FeasibilityConfig) -> Hyper:
    """The hyperparameters of a config."""
    return hyper_from(config, Hyper)


def make_networks(config: FeasibilityConfig, encoder: Encoder) -> Networks:
    """The networks of the critics. Their initial output is about `config.safe` everywhere.

    From 0, the value of a safe state would approach `config.safe` by a factor of `discount` per
    backup, and for thousands of steps noise would decide which states count as feasible.
    """
    return Networks(*(Critic(encoder, config.hidden, heads, config.safe) for heads in (2, 1)))


def init(nets: Networks, action_size: int, key: Array) -> FeasibilityState:
    """Fresh critics."""
    q_key, v_key = jax.random.split(key)
    obs, action = jnp.zeros(nets.v.encoder.spec.size), jnp.zeros(action_size)
    params = {"q": nets.q.init(q_key, obs, action), "v": nets.v.init(v_key, obs)}
    target_q = jax.tree.map(jnp.copy, params["q"])
    return FeasibilityState(params, target_q, optax.scale_by_adam().init(params))


def with_encoder(nets: Networks, state: FeasibilityState, source: Any) -> FeasibilityState:
    """Fresh critics whose encoders begin as that of a network of states, e.g. of their costs.

    What makes a state unsafe must be seen before what leads to it can be learned. Labels say so at
    once, while the critics' targets spread from few violations.

    Args:
      source: parameters of a `Critic` of states with the same encoder.
    """

    def begin(params: Any) -> Any:
        own = params["params"]
        encoder = copied_encoder(nets.v.encoder, own["encoder"], source["params"]["encoder"])
        return {"params": {**own, "encoder": encoder}}

    params = {name: begin(x) for name, x in state.params.items()}
    return dataclasses.replace(state, params=params, target_q=jax.tree.map(jnp.copy, params["q"]))


def update(
    hyper: Hyper, nets: Networks, state: FeasibilityState, batch: Transition
) -> tuple[FeasibilityState, Metrics]:
    """One gradient step of Q_h and V_h, and of the target's moving average."""

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        return critic_loss(hyper, nets, params, state.target_q, batch)

    params, optimizer, metrics = gradient_step(
        loss, state.params, state.optimizer, hyper.learning_rate
    )
    target_q = optax.incremental_update(params["q"], state.target_q, hyper.tau)
    return FeasibilityState(params, target_q, optimizer), metrics


def critic_loss(
    hyper: Hyper, nets: Networks, params: Any, target_q: Any, batch: Transition
) -> tuple[jax.Array, Metrics]:
    """Squared error of both Q_h, and V_h's expectile regression on the larger of them.

    The larger of the two, because an overlooked violation is worse than a false alarm; the lower
    expectile, because V_h approximates the best supported action.

    Source: FISOR (Zheng et al. 2024), equations 8 and 9.
    """
    chex.assert_rank([batch.obs, batch.n_step.violation, batch.weight], [2, 2, 1])
    next_v = vh(nets, params, batch.next_obs)
    target = losses.reachability_target(
        constraint_value(hyper, batch.n_step.violation[:, 0]),
        next_v,
        batch.discount,
        hyper.discount,
        hyper.violation_discount,
    )
    # The worst h lies between the two values of h; a critic's error need not.
    target = jnp.clip(target, hyper.safe, hyper.unsafe)
    q = apply(nets.q, params["q"], batch.obs, batch.action)
    supported = jnp.max(apply(nets.q, target_q, batch.obs, batch.action), axis=-1)
    v = vh(nets, params, batch.obs)
    total = jnp.maximum(jnp.sum(batch.weight), 1.0)
    q_loss = jnp.sum(batch.weight[:, None] * jnp.square(q - target[:, None])) / total
    error = jax.lax.stop_gradient(supported) - v
    v_loss = jnp.sum(batch.weight * losses.expectile_loss(error, 1.0 - hyper.expectile)) / total
    metrics = {
        "feasibility/q_loss": q_loss,
        "feasibility/v_loss": v_loss,
        "feasibility/infeasible_share": jnp.sum(batch.weight * (v > 0)) / total,
    }
    return q_loss + v_loss, metrics


def n_step_outcome(hyper: Hyper, nets: Networks, params: Any, batch: Transition) -> jax.Array:
    """The backup of V_h over the n steps that followed each row's action, `[B]`.

    A single step moves a robot by about a centimeter, so the Q_h of the best and the worst action
    differ by less than their error; after n steps they do not. Where a window ends in a true
    termination, its last h is not followed by anything.
    """
    steps = batch.n_step
    last_valid = steps.valid & ~jnp.pad(steps.valid[:, 1:], ((0, 0), (0, 1)))
    continues = jnp.where(last_valid, steps.discount[:, None], 1.0)

    def back(later: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        h, goes_on, valid = inputs
        value = losses.reachability_target(
            h, later, goes_on, hyper.discount, hyper.violation_discount
        )
        return jnp.where(valid, value, later), None

    h = constraint_value(hyper, steps.violation)
    inputs = jax.tree.map(jnp.transpose, (h, continues, steps.valid))
    return jax.lax.scan(back, vh(nets, params, steps.obs), inputs, reverse=True)[0]


def constraint_value(hyper: Hyper, violation: Array) -> jax.Array:
    """h of states: `hyper.unsafe` where they violate, else `hyper.safe`."""
    return jnp.where(violation, hyper.unsafe, hyper.safe)


def qh(nets: Networks, params: Any, obs: Array, action: Array) -> jax.Array:
    """The larger of the two Q_h, `[...]`, of normalized observations and actions."""
    return jnp.max(apply(nets.q, params["q"], obs, action), axis=-1)


def vh(nets: Networks, params: Any, obs: Array) -> jax.Array:
    """V_h `[...]` of normalized observations; at most 0 means feasible."""
    return apply(nets.v, params["v"], obs)[..., 0]
