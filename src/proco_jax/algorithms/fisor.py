"""FISOR: feasibility-guided safe offline RL (Zheng et al. 2024).

- Feasibility critics Q_h and V_h on all rows (`feasibility.py`; equations 7 to 9).
- Reward critics Q_r and V_r by IQL (Kostrikov et al. 2022) on logged rows alone: imagined rewards
  lack goal bonuses.
- A diffusion policy, by denoising regression on the actions of all rows with the weights of
  equation 13: exp(reward advantage) for feasible actions in feasible states, exp(feasibility
  advantage) in infeasible states, 0 otherwise. Imagined rows count only in infeasible states,
  which logs without violations lack, since elsewhere their weight would need their reward.
- At deployment the best of `fisor.candidates` sampled actions by Q_h (16, as published). With 1 the
  policy's own sample is executed. `sample_actions`, from which a shield chooses, returns plain
  samples.

Generated costs act in three ways: logged actions with Q_h > 0 lose their weight, logged rows in
infeasible states count by their feasibility advantage, and so do imagined rows there. Without any
cost, every state and action is feasible and the policy is exp-advantage regression (IDQL); the
choice among candidates is then noise.

Differences from the published code: the ring encoder in place of raw observations, narrower
networks, larger `tau` and `policy_tau` (thousands of steps, not a million); the reward advantage in
units of its usual size, where the code scales rewards by the known range of returns, and a smaller
temperature on it in short trainings (`config/presets.py`); one batch for actor and critics; losses
of one step see the same parameters. With `fisor.as_published`, further:

- time limits count as terminations;
- the backup within a violation is the published one (`feasibility.violation_discount` 0).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms import feasibility
from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.algorithms.time_limits import end_at_time_limits, require_window
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import Config
from proco_jax.models import losses
from proco_jax.models.diffusion import (
    DenoisingNetwork,
    Schedule,
    denoising_loss,
    sample_diffusion,
    variance_preserving_schedule,
)
from proco_jax.models.networks import Critic, apply, make_encoder
from proco_jax.types import Array, TaskSpec, Transition


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.FisorConfig`."""

    learning_rate: Array
    tau: Array
    policy_tau: Array
    discount: Array
    expectile: Array
    reward_temperature: Array
    cost_temperature: Array
    reward_weight_limit: Array
    cost_weight_limit: Array
    imagined_weight: Array
    dropout: Array
    feasibility: feasibility.Hyper


class Networks(NamedTuple):
    """Reward critics (two Q_r, one V_r), feasibility critics, policy and its noise schedule."""

    q: Critic
    v: Critic
    feasibility: feasibility.Networks
    policy: DenoisingNetwork
    schedule: Schedule


@struct.dataclass
class State:
    """Everything learned by one member.

    Attributes:
      params: `{"q", "v", "policy"}`.
      target_q: moving average of q's parameters.
      acting_policy: moving average of the policy's parameters, by which it acts.
      optimizer: Adam's state for `params`.
      feasibility: the feasibility critics.
      step: gradient steps done.
    """

    params: Any
    target_q: Any
    acting_policy: Any
    optimizer: optax.OptState
    feasibility: feasibility.FeasibilityState
    step: Array


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config.

    Raises:
      ValueError: with `as_published` and windows of one step.
    """
    settings = config.fisor
    nets = make_networks(config, task)
    decay = optax.cosine_decay_schedule(1.0, config.train.steps)
    safety = feasibility.make_hyper(config.feasibility)
    if settings.as_published:
        require_window("fisor", config.train.n_step)
        safety = safety._replace(violation_discount=jnp.float32(0.0))

    def sample_actions(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        actions = sample_diffusion(nets.policy, nets.schedule, state.acting_policy, obs, key, n)
        return actions, carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        proposals, carry = sample_actions(
            key, hyper, state, carry, obs, previous, settings.candidates
        )
        return least_qh(nets, state.feasibility, obs, proposals), carry

    return Algorithm(
        name="fisor",
        batch="transition",
        hyper=hyper_from(settings, Hyper, feasibility=safety),
        init=lambda key, hyper: init(nets, key),
        update=lambda key, hyper, state, batch: update(
            key, hyper, nets, state, batch, settings.as_published, decay(state.step)
        ),
        initial_carry=lambda: (),
        act=act,
        sample_actions=sample_actions,
        critics=lambda state: state.feasibility,
        with_critics=lambda state, critics: dataclasses.replace(state, feasibility=critics),
    )


def make_networks(config: Config, task: TaskSpec) -> Networks:
    """The networks of a config for a task."""
    settings = config.fisor
    encoder = make_encoder(config.encoder, task.observation)
    return Networks(
        q=Critic(encoder, settings.hidden, 2),
        v=Critic(encoder, settings.hidden, 1),
        feasibility=feasibility.make_networks(config.feasibility, encoder),
        policy=DenoisingNetwork(
            # Pooling over bins shows a policy that an object is near but blurs its direction.
            encoder.clone(flat=True),
            task.action_size,
            settings.width,
            settings.blocks,
            settings.time_features,
        ),
        schedule=variance_preserving_schedule(settings.diffusion_steps),
    )


def init(nets: Networks, key: Array) -> State:
    """A fresh state."""
    q_key, v_key, policy_key, feasibility_key = jax.random.split(key, 4)
    obs, action = jnp.zeros(nets.v.encoder.spec.size), jnp.zeros(nets.policy.actions)
    params = {
        "q": nets.q.init(q_key, obs, action),
        "v": nets.v.init(v_key, obs),
        "policy": nets.policy.init(policy_key, obs, action, jnp.int32(0)),
    }
    return State(
        params=params,
        target_q=jax.tree.map(jnp.copy, params["q"]),
        acting_policy=jax.tree.map(jnp.copy, params["policy"]),
        optimizer=optax.scale_by_adam().init(params),
        feasibility=feasibility.init(nets.feasibility, nets.policy.actions, feasibility_key),
        step=jnp.int32(0),
    )


def update(
    key: Array,
    hyper: Hyper,
    nets: Networks,
    state: State,
    batch: Transition,
    as_published: bool = False,
    rate: Array | float = 1.0,
) -> tuple[State, Metrics]:
    """One gradient step of feasibility critics, reward critics and policy.

    Args:
      key: of noise and dropout.
      rate: factor on the learning rate of reward critics and policy.
    """
    if as_published:
        batch = end_at_time_limits(batch)
    critics, critic_metrics = feasibility.update(
        hyper.feasibility, nets.feasibility, state.feasibility, batch
    )

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        values, metrics = reward_loss(hyper, nets, params, state, batch)
        policy, more = policy_loss(key, hyper, nets, params, state, batch)
        return values + policy, metrics | more

    params, optimizer, metrics = gradient_step(
        loss, state.params, state.optimizer, hyper.learning_rate * rate
    )
    state = State(
        params=params,
        target_q=optax.incremental_update(params["q"], state.target_q, hyper.tau),
        acting_policy=optax.incremental_update(
            params["policy"], state.acting_policy, hyper.policy_tau
        ),
        optimizer=optimizer,
        feasibility=critics,
        step=state.step + 1,
    )
    return state, metrics | critic_metrics


def reward_loss(
    hyper: Hyper, nets: Networks, params: Any, state: State, batch: Transition
) -> tuple[jax.Array, Metrics]:
    """IQL's losses of Q_r and V_r over logged rows, each with the gradient of its own network.

    Source: IQL (Kostrikov et al. 2022), equations 5 and 6.
    """
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    total = jnp.maximum(jnp.sum(logged), 1.0)
    v = apply(nets.v, params["v"], batch.obs)[..., 0]
    supported = jnp.min(apply(nets.q, state.target_q, batch.obs, batch.action), axis=-1)
    error = jnp.where(batch.imagined, 0.0, jax.lax.stop_gradient(supported) - v)
    v_loss = jnp.sum(logged * losses.expectile_loss(error, hyper.expectile)) / total
    next_v = apply(nets.v, params["v"], batch.next_obs)[..., 0]
    target = jax.lax.stop_gradient(batch.reward + hyper.discount * batch.discount * next_v)
    q = apply(nets.q, params["q"], batch.obs, batch.action)
    q_loss = jnp.sum(logged[:, None] * jnp.square(q - target[:, None])) / total
    metrics = {
        "fisor/v_loss": v_loss,
        "fisor/q_loss": q_loss,
        "fisor/v": jnp.sum(logged * v) / total,
    }
    return v_loss + q_loss, metrics


def policy_loss(
    key: Array, hyper: Hyper, nets: Networks, params: Any, state: State, batch: Transition
) -> tuple[jax.Array, Metrics]:
    """Weighted denoising regression. Source: FISOR (Zheng et al. 2024), equations 13 and 15."""
    weight = policy_weights(hyper, nets, state, batch)
    error = denoising_loss(
        nets.policy, nets.schedule, params["policy"], batch.obs, batch.action, key, hyper.dropout
    )
    loss = jnp.sum(weight * error) / jnp.maximum(jnp.sum(batch.weight), 1.0)
    return loss, {"fisor/policy_loss": loss, "fisor/weight": jnp.mean(weight)}


def policy_weights(hyper: Hyper, nets: Networks, state: State, batch: Transition) -> jax.Array:
    """Weights `[B]` of the policy's regression, without gradient.

    Source: FISOR (Zheng et al. 2024), equation 13, with Q by the target networks and V by the
    learned ones, as in its code.
    """
    q = jnp.min(apply(nets.q, state.target_q, batch.obs, batch.action), axis=-1)
    advantage = q - apply(nets.v, state.params["v"], batch.obs)[..., 0]
    advantage = advantage / losses.usual_size(advantage, ~batch.imagined)
    qh = target_qh(nets, state.feasibility, batch.obs, batch.action)
    vh = feasibility.vh(nets.feasibility, state.feasibility.params, batch.obs)
    weights = losses.policy_weights(
        jnp.where(batch.imagined, -jnp.inf, advantage),
        qh,
        vh,
        qh,
        (hyper.reward_temperature, hyper.cost_temperature),
        (hyper.reward_weight_limit, hyper.cost_weight_limit),
    )
    share = jnp.where(batch.imagined, hyper.imagined_weight, 1.0)
    return jax.lax.stop_gradient(share * weights * batch.weight)


def target_qh(
    nets: Networks, critics: feasibility.FeasibilityState, obs: Array, action: Array
) -> jax.Array:
    """The larger of the two Q_h by their target networks, `[...]`."""
    return feasibility.qh(nets.feasibility, {"q": critics.target_q}, obs, action)


def least_qh(
    nets: Networks, critics: feasibility.FeasibilityState, obs: Array, proposals: Array
) -> jax.Array:
    """Of actions `[n, A]` in one state `[O]`, the one with the least Q_h."""
    if proposals.shape[0] == 1:
        return proposals[0]
    many = jnp.broadcast_to(obs, (proposals.shape[0], *obs.shape))
    return proposals[jnp.argmin(target_qh(nets, critics, many, proposals))]
