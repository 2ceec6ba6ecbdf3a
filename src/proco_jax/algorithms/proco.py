"""PROCO's feasibility-constrained actor-critic.

A reward critic on the logs alone, feasibility critics on logs and imagined
samples, and a policy regressed on actions: after reward where the state is
feasible, away from the violation where it is not (FISOR, Zheng et al. 2024).
Logged states are almost never infeasible, so what to do there is learned from
the imagined ones.

What an action is worth is what the log earned over the next steps, more than
the critic expected (advantage-weighted regression, Peng et al. 2019), and how
far it led out of danger is seen after as many. Critics of single actions do not
see either: one step moves a robot by a centimetre.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms import feasibility
from proco_jax.config.schema import AgentConfig, FeasibilityConfig
from proco_jax.models import losses
from proco_jax.models.networks import Critic, Encoder, GaussianPolicy, apply
from proco_jax.types import Array, Transition

# The share of advantages, a Gaussian's within one deviation, that are of usual size.
_USUAL = 0.683


class Networks(NamedTuple):
    """Reward critic, feasibility critics, and the policy."""

    v: Critic
    feasibility: feasibility.Networks
    policy: GaussianPolicy


@struct.dataclass
class AgentState:
    """Everything learned for one seed.

    Attributes:
      params: `{"v", "policy"}`.
      target_v: moving average of v's parameters.
      optimizer: optimiser state of `params`.
      feasibility: the feasibility critics.
    """

    params: Any
    target_v: Any
    optimizer: optax.OptState
    feasibility: feasibility.FeasibilityState


def networks(
    config: AgentConfig, feasibility_config: FeasibilityConfig, encoder: Encoder, actions: int
) -> Networks:
    """The networks of an agent with so many action dimensions."""
    # Pooling over bins tells a policy that something is near but blurs where it is.
    policy_encoder = encoder.clone(flat=True)
    return Networks(
        v=Critic(encoder, config.hidden, 1),
        feasibility=feasibility.networks(feasibility_config, config.hidden, encoder),
        policy=GaussianPolicy(policy_encoder, config.hidden, actions),
    )


def init(config: AgentConfig, nets: Networks, key: Array) -> AgentState:
    """A fresh agent."""
    v_key, policy_key, feasibility_key = jax.random.split(key, 3)
    obs = jnp.zeros(nets.v.encoder.spec.size)
    params = {
        "v": nets.v.init(v_key, obs),
        "policy": nets.policy.init(policy_key, obs),
    }
    return AgentState(
        params=params,
        target_v=jax.tree.map(jnp.copy, params["v"]),
        optimizer=_optimizer(config).init(params),
        feasibility=feasibility.init(
            config, nets.feasibility, nets.policy.actions, feasibility_key
        ),
    )


def update(
    config: AgentConfig,
    feasibility_config: FeasibilityConfig,
    nets: Networks,
    state: AgentState,
    logged: Transition,
    critic_batch: feasibility.Batch,
    rate: Array | float = 1.0,
) -> tuple[AgentState, dict[str, jax.Array]]:
    """One gradient step of everything.

    Args:
      logged: scaled transitions of the logs.
      critic_batch: samples of the feasibility critics: those of `logged`
        first, imagined ones behind.
      rate: factor on the learning rate of reward critic and policy.
    """
    h_state, h_metrics = feasibility.update(
        feasibility_config, config, nets.feasibility, state.feasibility, critic_batch
    )

    def loss(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return agent_loss(config, feasibility_config, nets, params, state, logged, critic_batch)

    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = _optimizer(config).update(grads, state.optimizer)
    updates = jax.tree.map(lambda x: rate * x, updates)
    params: Any = optax.apply_updates(state.params, updates)
    target_v = optax.incremental_update(params["v"], state.target_v, config.target_rate)
    return AgentState(params, target_v, opt_state, h_state), metrics | h_metrics


def agent_loss(
    config: AgentConfig,
    feasibility_config: FeasibilityConfig,
    nets: Networks,
    params: Any,
    state: AgentState,
    logged: Transition,
    critic_batch: feasibility.Batch,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Losses of the reward critic and the policy; their gradients do not meet."""
    ahead = logged.ahead
    later = apply(nets.v, state.target_v, ahead.obs)[..., 0]
    target = losses.n_step_target(config.reward_scale * ahead.reward, later, ahead.discount)
    v = apply(nets.v, params["v"], logged.obs)[..., 0]
    v_loss = jnp.mean(losses.expectile_loss(target - v, config.expectile))
    weight = _weights(config, feasibility_config, nets, state, target - v, critic_batch)
    log_prob = log_probability(nets.policy, params["policy"], critic_batch.obs, critic_batch.action)
    policy_loss = -jnp.sum(weight * log_prob) / jnp.maximum(jnp.sum(critic_batch.weight), 1.0)
    metrics = {
        "agent/v_loss": v_loss,
        "agent/v": jnp.mean(v),
        "agent/policy_loss": policy_loss,
        "agent/weight": jnp.mean(weight),
    }
    return v_loss + policy_loss, metrics


def propose(
    config: AgentConfig, nets: Networks, state: AgentState, obs: Array, key: Array
) -> tuple[jax.Array, jax.Array]:
    """The action to take in one state, and the lowest Q_h of those there were.

    Of several actions of the policy the first that is feasible, or the one with
    the lowest Q_h if none is. Not the feasible one with the best Q_r, nor the
    mode: forces saturate at a small part of the action's range, so robots are
    slow because their actions change sign, and what always acts the same way
    is much faster than anything in the logs.

    Args:
      obs: `[O]` scaled.
      key: typed key.

    Returns:
      `[A]` in [-1, 1], and a scalar.
    """
    mean, log_std = apply(nets.policy, state.params["policy"], obs)
    actions = _draw(mean, log_std, jax.random.normal(key, (config.samples, *mean.shape)))
    many = jnp.broadcast_to(obs, (config.samples, *obs.shape))
    qh = feasibility.qh(nets.feasibility, state.feasibility.params, many, actions)
    feasible = qh <= config.feasible_up_to
    chosen = jnp.where(jnp.any(feasible), jnp.argmax(feasible), jnp.argmin(qh))
    return actions[chosen], jnp.min(qh)


def sample(nets: Networks, state: AgentState, obs: Array, key: Array) -> jax.Array:
    """One action `[..., A]` of the policy for each scaled observation `[..., O]`."""
    mean, log_std = apply(nets.policy, state.params["policy"], obs)
    return _draw(mean, log_std, jax.random.normal(key, mean.shape))


def _draw(mean: Array, log_std: Array, noise: Array) -> jax.Array:
    """Actions of a Gaussian, kept in the range of the actuators."""
    return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)


def log_probability(net: GaussianPolicy, params: Any, obs: Array, action: Array) -> jax.Array:
    """Log density `[B]` of actions under the policy, up to a constant."""
    mean, log_std = apply(net, params, obs)
    error = (action - mean) * jnp.exp(-log_std)
    return -jnp.sum(0.5 * jnp.square(error) + log_std, axis=-1)


def _weights(
    config: AgentConfig,
    feasibility_config: FeasibilityConfig,
    nets: Networks,
    state: AgentState,
    reward_advantage: Array,
    batch: feasibility.Batch,
) -> jax.Array:
    """Regression weights `[B]`; imagined samples teach only what infeasible states need."""
    params = state.feasibility.params
    qh = feasibility.qh(nets.feasibility, params, batch.obs, batch.action)
    vh = feasibility.vh(nets.feasibility, params, batch.obs)
    imagined = batch.obs.shape[0] - reward_advantage.shape[0]
    # In units of its usual size, so that a temperature means the same for every task.
    usual = jnp.quantile(jnp.abs(reward_advantage), _USUAL)
    advantage = reward_advantage / jnp.maximum(usual, 1e-6)
    share = jnp.ones_like(advantage), jnp.full(imagined, config.imagined_weight)
    # The reward critic knows nothing of imagined actions.
    unknown = jnp.full(imagined, -jnp.inf)
    weights = losses.policy_weights(
        jnp.concatenate([advantage, unknown]),
        qh,
        vh,
        feasibility.outcome(feasibility_config, nets.feasibility, params, batch),
        (config.reward_temperature, config.cost_temperature),
        (config.reward_weight_limit, config.cost_weight_limit),
    )
    return jnp.concatenate(share) * weights * batch.weight


def _optimizer(config: AgentConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)
