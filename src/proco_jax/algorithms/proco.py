"""PROCO's feasibility-constrained actor-critic.

Three parts share a batch of logged and imagined rows:

- feasibility critics Q_h and V_h on all rows (`feasibility.py`; FISOR, Zheng et al. 2024);
- a reward value V_r on the logged rows, by expectile regression on n-step returns (IQL, Kostrikov
  et al. 2022, equation 5). Imagined rows carry predicted rewards without goal bonuses, which are a
  large part of a return, so they are left out;
- a Gaussian policy regressed on the actions of all rows with the weights of FISOR's equation 13:
  exp(reward advantage) in feasible states, exp(feasibility advantage) in infeasible ones. Imagined
  rows count only in infeasible states, which logs without violations lack.

Both advantages look n steps ahead (advantage-weighted regression, Peng et al. 2019), since one step
changes the state by less than the critics' error. Differences from FISOR: n-step outcomes in place
of Q_h and Q_r, a reward advantage in units of its usual size, a Gaussian in place of a diffusion
policy. Defaults: `config.schema.ProcoConfig` and `FeasibilityConfig`.

This regression is the first phase. Where the augmentation has a world, the policy is improved in it
afterwards (`imagination.py`), while reward value and its target stay as they are.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms import feasibility
from proco_jax.algorithms.base import Actor, Algorithm, Metrics, Previous
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import Config
from proco_jax.models import losses
from proco_jax.models.networks import (
    Critic,
    GaussianPolicy,
    apply,
    log_probability,
    make_encoder,
    sample_gaussian,
)
from proco_jax.types import Array, TaskSpec, Transition


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.ProcoConfig`."""

    learning_rate: Array
    tau: Array
    discount: Array
    expectile: Array
    reward_temperature: Array
    cost_temperature: Array
    reward_weight_limit: Array
    cost_weight_limit: Array
    imagined_weight: Array
    feasibility: feasibility.Hyper


class Networks(NamedTuple):
    """Reward value, feasibility critics, and policy."""

    v: Critic
    feasibility: feasibility.Networks
    policy: GaussianPolicy


@struct.dataclass
class State:
    """Everything learned by one member.

    Attributes:
      params: `{"v", "policy"}`.
      target_v: moving average of v's parameters.
      optimizer: Adam's state for `params`.
      feasibility: the feasibility critics.
      step: gradient steps done.
    """

    params: Any
    target_v: Any
    optimizer: optax.OptState
    feasibility: feasibility.FeasibilityState
    step: Array


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config."""
    nets = make_networks(config, task)
    # The learning rate decays, since at a constant one the policy fits the noise of the logs.
    decay = optax.cosine_decay_schedule(1.0, config.train.steps)

    def sample_actions(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        return sample_gaussian(nets.policy, state.params["policy"], obs, key, n), carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        return sample_actions(key, hyper, state, carry, obs, previous, 1)[0][0], carry

    def update_critics(hyper: Hyper, state: State, batch: Transition) -> tuple[State, Metrics]:
        critics, metrics = feasibility.update(
            hyper.feasibility, nets.feasibility, state.feasibility, batch
        )
        return dataclasses.replace(state, feasibility=critics), metrics

    def replace(state: State, policy: Any) -> State:
        return dataclasses.replace(state, params=state.params | {"policy": policy})

    return Algorithm(
        name="proco",
        batch="transition",
        hyper=hyper_from(
            config.proco, Hyper, feasibility=feasibility.make_hyper(config.feasibility)
        ),
        init=lambda key, hyper: init(nets, key),
        update=lambda key, hyper, state, batch: update(
            hyper, nets, state, batch, decay(state.step)
        ),
        initial_carry=lambda: (),
        act=act,
        sample_actions=sample_actions,
        critics=lambda state: state.feasibility,
        with_critics=lambda state, critics: dataclasses.replace(state, feasibility=critics),
        actor=Actor(nets.policy, lambda state: state.params["policy"], replace, update_critics),
    )


def make_networks(config: Config, task: TaskSpec) -> Networks:
    """The networks of a config for a task."""
    encoder = make_encoder(config.encoder, task.observation)
    # Pooling over bins shows a policy that an object is near but blurs its direction.
    policy_encoder = encoder.clone(flat=True)
    return Networks(
        v=Critic(encoder, config.proco.hidden, 1),
        feasibility=feasibility.make_networks(config.feasibility, encoder),
        policy=GaussianPolicy(policy_encoder, config.proco.hidden, task.action_size),
    )


def init(nets: Networks, key: Array) -> State:
    """A fresh state."""
    v_key, policy_key, feasibility_key = jax.random.split(key, 3)
    obs = jnp.zeros(nets.v.encoder.spec.size)
    params = {"v": nets.v.init(v_key, obs), "policy": nets.policy.init(policy_key, obs)}
    return State(
        params=params,
        target_v=jax.tree.map(jnp.copy, params["v"]),
        optimizer=optax.scale_by_adam().init(params),
        feasibility=feasibility.init(nets.feasibility, nets.policy.actions, feasibility_key),
        step=jnp.int32(0),
    )


def update(
    hyper: Hyper, nets: Networks, state: State, batch: Transition, rate: Array | float = 1.0
) -> tuple[State, Metrics]:
    """One gradient step of feasibility critics, reward value and policy.

    Args:
      rate: factor on the learning rate of reward value and policy.
    """
    critics, critic_metrics = feasibility.update(
        hyper.feasibility, nets.feasibility, state.feasibility, batch
    )

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        return value_and_policy_loss(hyper, nets, params, state, batch)

    params, optimizer, metrics = gradient_step(
        loss, state.params, state.optimizer, hyper.learning_rate * rate
    )
    target_v = optax.incremental_update(params["v"], state.target_v, hyper.tau)
    return State(params, target_v, optimizer, critics, state.step + 1), metrics | critic_metrics


def value_and_policy_loss(
    hyper: Hyper, nets: Networks, params: Any, state: State, batch: Transition
) -> tuple[jax.Array, Metrics]:
    """Losses of reward value and policy; no gradient of one reaches the other's parameters."""
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    steps = batch.n_step
    later = apply(nets.v, state.target_v, steps.obs)[..., 0]
    target = losses.n_step_target(steps.reward, steps.valid, later, steps.discount, hyper.discount)
    v = apply(nets.v, params["v"], batch.obs)[..., 0]
    total = jnp.maximum(jnp.sum(logged), 1.0)
    error = jnp.where(batch.imagined, 0.0, target - v)
    v_loss = jnp.sum(logged * losses.expectile_loss(error, hyper.expectile)) / total
    weight = policy_weights(hyper, nets, state, target - v, batch)
    log_prob = log_probability(nets.policy, params["policy"], batch.obs, batch.action)
    policy_loss = -jnp.sum(weight * log_prob) / jnp.maximum(jnp.sum(batch.weight), 1.0)
    metrics = {
        "proco/v_loss": v_loss,
        "proco/v": jnp.sum(logged * v) / total,
        "proco/policy_loss": policy_loss,
        "proco/weight": jnp.mean(weight),
    }
    return v_loss + policy_loss, metrics


def policy_weights(
    hyper: Hyper, nets: Networks, state: State, advantage: Array, batch: Transition
) -> jax.Array:
    """Regression weights `[B]`, without gradient.

    Args:
      advantage: `[B]` n-step return minus V_r, ignored for imagined rows.
    """
    params = state.feasibility.params
    advantage = advantage / losses.usual_size(advantage, ~batch.imagined)
    weights = losses.policy_weights(
        jnp.where(batch.imagined, -jnp.inf, advantage),
        feasibility.qh(nets.feasibility, params, batch.obs, batch.action),
        feasibility.vh(nets.feasibility, params, batch.obs),
        feasibility.n_step_outcome(hyper.feasibility, nets.feasibility, params, batch),
        (hyper.reward_temperature, hyper.cost_temperature),
        (hyper.reward_weight_limit, hyper.cost_weight_limit),
    )
    share = jnp.where(batch.imagined, hyper.imagined_weight, 1.0)
    return jax.lax.stop_gradient(share * weights * batch.weight)
