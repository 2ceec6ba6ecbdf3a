"""Improvement of a policy in imagination, on-policy, under a constraint on its cost.

The regression on logged actions cannot leave what the logs do, and its critics judge single actions
by states that the policy does not visit. This second phase acts in worlds of the learned dynamics
and improves the policy by what happens there: proximal policy optimization (Schulman et al. 2017)
with generalized advantage estimation (Schulman et al. 2016) for reward and cost, and a multiplier
on the cost by dual ascent (PPO-Lagrangian, Ray et al. 2019).

Worlds continue across updates, so the policy visits the states to which it leads itself. They
continue after a rare bonus too, with what it draws anew, e.g. where the next goal is: a robot that
passes a goal at full speed meets what is behind it. A world starts anew from a logged state

- where it is lost, because the dynamics ensemble disagrees: no reward follows;
- at random beyond an age, as errors of the model add up; this is no end, values bootstrap.

Policies of neighboring updates differ in return and cost. What is deployed is an average of their
parameters, whose mean age is a tenth of the updates (Shamir and Zhang 2013); the policy itself acts
and learns.

The reward of a step is the usual part of the predicted reward, and the bonus where its event is
drawn. Its cost is 1 where the next state counts as unsafe. All is written for one member.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms.base import Metrics
from proco_jax.algorithms.gradient_step import clip_gradient, descend
from proco_jax.augmentation.base import World, advance
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import Config, ImaginationConfig
from proco_jax.models.losses import weighted_mean
from proco_jax.models.networks import (
    Critic,
    GaussianPolicy,
    apply,
    gaussian_log_density,
    log_probability,
    make_encoder,
)
from proco_jax.types import Array, TaskSpec

VALUE_LEARNING_RATE = 1e-3
# Of the norms of the gradients.
POLICY_GRADIENT_LIMIT, VALUE_GRADIENT_LIMIT = 1.0, 10.0
ADAM_EPS = 1e-5
# Reward values are a tenth of cost values in size.
REWARD_VALUE_WEIGHT = 10.0
# A minibatch has so many times as many imagined actions as logged ones.
LOGGED_PART = 4
SMALLEST_MULTIPLIER = 0.01
# The policy's learning rate at the last update, as a share of that at the first.
LAST_RATE = 0.1
# By which the average of the policy decays: after t updates the one n updates ago has about the
# weight (1 - n / t)^DECAY.
DECAY = 8.0
# Of a world beyond its age, per step.
RESTART_PROBABILITY = 0.1
# Metrics count events per so many steps, about the length of an episode.
STEPS = 1000.0


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.ImaginationConfig`."""

    learning_rate: Array
    discount: Array
    cost_discount: Array
    gae: Array
    clip: Array
    likelihood_weight: Array
    multiplier: Array
    multiplier_rate: Array
    multiplier_limit: Array
    target_cost: Array
    risky_start_share: Array


class Networks(NamedTuple):
    """The policy that is improved, and the values of reward and cost, one network each."""

    policy: GaussianPolicy
    value: Critic
    cost_value: Critic


@struct.dataclass
class State:
    """The improvement of one member.

    Attributes:
      policy: parameters of the policy.
      average: of its parameters over the last updates, which is deployed.
      values: parameters `{"reward", "cost"}` of both values.
      policy_optimizer: state of the policy's optimizer.
      value_optimizer: state of the values' optimizer.
      multiplier: of the cost advantage.
      imagined: `[W, S]` the states of the worlds.
      age: `[W]` int32, their steps so far.
      updates: done.
    """

    policy: Any
    average: Any
    values: Any
    policy_optimizer: optax.OptState
    value_optimizer: optax.OptState
    multiplier: Array
    imagined: Array
    age: Array
    updates: Array


class Steps(NamedTuple):
    """Imagined steps, `[T, W, ...]`, or `[B, ...]` once they are shuffled.

    Attributes:
      obs: normalized.
      action: as drawn, before it is clipped to its range.
      log_prob: its log density under the policy that drew it.
      reward: with bonus.
      cost: 1 where the next state is unsafe.
      value: of the state.
      cost_value: of the state.
      next_value: of what follows.
      next_cost_value: of what follows.
      ends: whether the next step is that of another world.
      lost: whether the world was lost.
      bonus: whether the bonus occurred.
    """

    obs: Array
    action: Array
    log_prob: Array
    reward: Array
    cost: Array
    value: Array
    cost_value: Array
    next_value: Array
    next_cost_value: Array
    ends: Array
    lost: Array
    bonus: Array


class Batch(NamedTuple):
    """What the losses read, `[B, ...]`; `Steps` has the meaning of the first three."""

    obs: Array
    action: Array
    log_prob: Array
    advantage: Array
    cost_advantage: Array
    target: Array
    cost_target: Array


def make_hyper(config: ImaginationConfig) -> Hyper:
    """The hyperparameters of a config."""
    return hyper_from(config, Hyper)


def make_networks(config: Config, task: TaskSpec, policy: GaussianPolicy) -> Networks:
    """The networks of a config for a task and its policy."""
    value = Critic(make_encoder(config.encoder, task.observation), config.proco.hidden, 1)
    return Networks(policy, value, value)


def init(
    settings: ImaginationConfig, hyper: Hyper, nets: Networks, world: World, policy: Any, key: Array
) -> State:
    """The state before the first update of a policy with parameters `policy`."""
    value_key, cost_key, start_key, age_key = jax.random.split(key, 4)
    count = settings.worlds
    imagined = world.starts(start_key, count, hyper.risky_start_share)
    like = jnp.zeros(world.observe(imagined).shape[-1])
    values = {
        "reward": nets.value.init(value_key, like),
        "cost": nets.cost_value.init(cost_key, like),
    }
    return State(
        policy=policy,
        # States are donated, so no two of their parts may share their memory.
        average=jax.tree.map(jnp.copy, policy),
        values=values,
        policy_optimizer=optax.scale_by_adam().init(policy),
        value_optimizer=optax.scale_by_adam().init(values),
        multiplier=jnp.minimum(hyper.multiplier, hyper.multiplier_limit),
        imagined=imagined,
        # Different ages, so that the worlds do not end at once.
        age=jax.random.randint(age_key, (count,), 0, settings.age),
        updates=jnp.int32(0),
    )


def update(
    settings: ImaginationConfig,
    hyper: Hyper,
    nets: Networks,
    world: World,
    state: State,
    key: Array,
) -> tuple[State, Metrics]:
    """One update: imagined steps, then `epochs` passes of gradient steps over them.

    During the first `settings.warmup` updates policy and multiplier stay as they are. Then the
    policy's learning rate decays linearly to a tenth.
    """
    act_key, learn_key = jax.random.split(key)
    (imagined, age), steps = act(settings, hyper, nets, world, state, act_key)
    batch = _with_advantages(hyper, steps)
    learns = state.updates >= settings.warmup
    rate = hyper.learning_rate * rate_share(settings, state.updates)
    learned = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    def epoch(state: State, key: Array) -> tuple[State, Metrics]:
        order_key, row_key = jax.random.split(key)
        size = learned.advantage.shape[0] // settings.minibatches
        known = max(1, size // LOGGED_PART)
        order = jax.random.permutation(order_key, learned.advantage.shape[0])
        rows = order[: size * settings.minibatches].reshape(settings.minibatches, size)

        def minibatch(state: State, inputs: tuple[Array, Array]) -> tuple[State, Metrics]:
            index, key = inputs
            part = jax.tree.map(lambda x: x[index], learned)
            logged = world.logged(key, known)
            return _gradient_steps(hyper, nets, world, state, part, logged, rate, learns)

        keys = jax.random.split(row_key, settings.minibatches)
        return jax.lax.scan(minibatch, state, (rows, keys))

    state, metrics = jax.lax.scan(epoch, state, jax.random.split(learn_key, settings.epochs))
    cost = jnp.mean(steps.cost)
    ascended = ascend(
        state.multiplier,
        cost,
        hyper.target_cost / STEPS,
        hyper.multiplier_rate,
        hyper.multiplier_limit,
    )
    state = dataclasses.replace(
        state,
        average=averaged(settings, state),
        multiplier=jnp.where(learns, ascended, state.multiplier),
        imagined=imagined,
        age=age,
        updates=state.updates + 1,
    )
    metrics = jax.tree.map(jnp.mean, metrics) | {
        "imagination/reward": STEPS * jnp.mean(steps.reward),
        "imagination/cost": STEPS * cost,
        "imagination/bonuses": STEPS * jnp.mean(steps.bonus),
        "imagination/lost_share": jnp.mean(steps.lost),
        "imagination/multiplier": state.multiplier,
        "imagination/value_explained": _explained(steps.value, batch.target),
        "imagination/cost_value_explained": _explained(steps.cost_value, batch.cost_target),
    }
    return state, metrics


def rate_share(settings: ImaginationConfig, updates: Array) -> jax.Array:
    """The share of the learning rate after so many updates, from 1 after the warmup to a tenth."""
    span = max(settings.updates - settings.warmup, 1)
    done = jnp.clip((updates - settings.warmup) / span, 0.0, 1.0)
    return 1.0 - (1.0 - LAST_RATE) * done


def averaged(settings: ImaginationConfig, state: State) -> Any:
    """The average of the policy's parameters with those after this update, the t-th that moved it.

    They have the share (DECAY + 1) / (DECAY + t), so the first ones replace what was there.

    Args:
      state: with the policy after the update, and the average and the count of updates before it.

    Source: Shamir and Zhang 2013, polynomial-decay averaging.
    """
    done = jnp.maximum(state.updates - settings.warmup, 0)
    share = (DECAY + 1.0) / (DECAY + 1.0 + done)
    return optax.incremental_update(state.policy, state.average, share)


def act(
    settings: ImaginationConfig,
    hyper: Hyper,
    nets: Networks,
    world: World,
    state: State,
    key: Array,
) -> tuple[tuple[jax.Array, jax.Array], Steps]:
    """`horizon` steps of the policy in every world.

    Returns:
      The states of the worlds then, `[W, S]`, and their ages `[W]`; and the steps, `[T, W, ...]`.
    """

    def value(obs: Array) -> jax.Array:
        return apply(nets.value, state.values["reward"], obs)[..., 0]

    def cost_value(obs: Array) -> jax.Array:
        return apply(nets.cost_value, state.values["cost"], obs)[..., 0]

    def step(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Steps]:
        imagined, age = carry
        action_key, bonus_key, sample_key, age_key, start_key = jax.random.split(key, 5)
        seen = world.normalizer(world.observe(imagined))
        mean, log_std = apply(nets.policy, state.policy, seen)
        action = mean + jnp.exp(log_std) * jax.random.normal(action_key, mean.shape)
        keys, executed = (bonus_key, sample_key), jnp.clip(action, -1.0, 1.0)
        found, bonus, reward, next_imagined = advance(world, keys, imagined, executed)
        old = jax.random.bernoulli(age_key, RESTART_PROBABILITY, age.shape)
        ends = found.lost | (old & (age >= settings.age))
        following = world.normalizer(world.observe(next_imagined))
        steps = Steps(
            obs=seen,
            action=action,
            log_prob=gaussian_log_density(mean, log_std, action),
            reward=reward,
            cost=found.unsafe.astype(jnp.float32),
            value=value(seen),
            cost_value=cost_value(seen),
            next_value=jnp.where(found.lost, 0.0, value(following)),
            next_cost_value=cost_value(following),
            ends=ends,
            lost=found.lost,
            bonus=bonus,
        )
        starts = world.starts(start_key, settings.worlds, hyper.risky_start_share)
        return restart(ends, next_imagined, age, starts), steps

    return jax.lax.scan(step, (state.imagined, state.age), jax.random.split(key, settings.horizon))


def restart(
    ends: Array, next_imagined: Array, age: Array, starts: Array
) -> tuple[jax.Array, jax.Array]:
    """The states of the worlds and their ages after a step; those that end begin at their start.

    Args:
      ends: `[W]` bool.
      next_imagined: `[W, S]`.
      age: `[W]` before the step.
      starts: `[W, S]`.
    """
    return jnp.where(ends[:, None], starts, next_imagined), jnp.where(ends, 0, age + 1)


def advantages(
    reward: Array,
    value: Array,
    next_value: Array,
    ends: Array,
    discount: Array | float,
    decay: Array | float,
) -> jax.Array:
    """Generalized advantages: discounted sums of the errors r + g V(s') - V(s) until a world ends.

    Args:
      reward: `[T, W]`.
      value: `[T, W]` V(s).
      next_value: `[T, W]` of what follows the step, also where its world ends.
      ends: `[T, W]` bool, whether the next step is that of another world.
      discount: g.
      decay: lambda, of errors of later steps beside the discount.

    Returns:
      `[T, W]` advantages, without gradient.

    Source: Schulman et al. 2016, equation 16.
    """
    chex.assert_equal_shape([reward, value, next_value, ends])
    chex.assert_rank(reward, 2)
    error = reward + discount * next_value - value

    def back(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        error, ends = inputs
        total = error + discount * decay * jnp.where(ends, 0.0, later)
        return total, total

    found = jax.lax.scan(back, jnp.zeros(reward.shape[1]), (error, ends), reverse=True)[1]
    return jax.lax.stop_gradient(found)


def constrained_advantage(advantage: Array, cost_advantage: Array, multiplier: Array) -> jax.Array:
    """A_r - lambda A_c of a batch `[B]`, normalized to mean 0 and deviation 1, without gradient."""
    chex.assert_equal_shape([advantage, cost_advantage])
    joint = advantage - multiplier * cost_advantage
    return jax.lax.stop_gradient((joint - jnp.mean(joint)) / (jnp.std(joint) + 1e-8))


def surrogate_loss(log_prob: Array, old_log_prob: Array, advantage: Array, clip: Array) -> Array:
    """The clipped surrogate of a policy's improvement, negative, a mean over the batch.

    Args:
      log_prob: `[B]` log density of the actions under the policy.
      old_log_prob: `[B]` the same under the policy that drew them.
      advantage: `[B]`.
      clip: how far from 1 their ratio counts.

    Source: Schulman et al. 2017, equation 7.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    ratio = jnp.exp(log_prob - old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))


def likelihood(log_prob: Array, safe: Array) -> jax.Array:
    """Mean log density of the logged actions `[B]` after which the state is safe."""
    return weighted_mean(log_prob, safe.astype(log_prob.dtype))


def value_loss(value: Array, target: Array) -> jax.Array:
    """Mean squared error of values `[B]`."""
    chex.assert_equal_shape([value, target])
    return jnp.mean(jnp.square(value - jax.lax.stop_gradient(target)))


def ascend(multiplier: Array, cost: Array, target: Array, rate: Array, limit: Array) -> jax.Array:
    """The multiplier after a step of dual ascent in its logarithm.

    It grows by the factor exp(rate) where the cost is twice the target or more, shrinks by as much
    where there is no cost, and stays within SMALLEST_MULTIPLIER and `limit`. A rate of 0 keeps it.

    Args:
      multiplier: now.
      cost: measured per step.
      target: what it should be.
      rate: largest change of the logarithm.
      limit: largest multiplier.
    """
    excess = jnp.clip((cost - target) / target, -1.0, 1.0)
    moved = jnp.clip(multiplier * jnp.exp(rate * excess), SMALLEST_MULTIPLIER, limit)
    return jnp.where(rate > 0, moved, multiplier)


def policy_loss(
    hyper: Hyper,
    nets: Networks,
    policy: Any,
    multiplier: Array,
    batch: Batch,
    logged: tuple[Array, Array, Array],
) -> tuple[jax.Array, Metrics]:
    """Surrogate of the constrained advantage and likelihood of safe logged actions.

    Args:
      policy: parameters.
      logged: normalized obs `[L, O]`, actions `[L, A]`, and whether the next state is safe `[L]`.
    """
    mean, log_std = apply(nets.policy, policy, batch.obs)
    log_prob = gaussian_log_density(mean, log_std, batch.action)
    advantage = constrained_advantage(batch.advantage, batch.cost_advantage, multiplier)
    surrogate = surrogate_loss(log_prob, batch.log_prob, advantage, hyper.clip)
    obs, action, safe = logged
    known = likelihood(log_probability(nets.policy, policy, obs, action), safe)
    entropy = jnp.mean(jnp.sum(log_std + 0.5 * jnp.log(2.0 * jnp.pi * jnp.e), axis=-1))
    metrics = {
        "imagination/surrogate_loss": surrogate,
        "imagination/likelihood": known,
        "imagination/entropy": entropy,
        "imagination/divergence": jnp.mean(batch.log_prob - log_prob),
    }
    return surrogate - hyper.likelihood_weight * known, metrics


def values_loss(nets: Networks, values: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Squared errors of both values; each moves its own parameters alone."""
    reward = value_loss(apply(nets.value, values["reward"], batch.obs)[..., 0], batch.target)
    cost = value_loss(apply(nets.cost_value, values["cost"], batch.obs)[..., 0], batch.cost_target)
    metrics = {"imagination/value_loss": reward, "imagination/cost_value_loss": cost}
    return REWARD_VALUE_WEIGHT * reward + cost, metrics


def _gradient_steps(
    hyper: Hyper,
    nets: Networks,
    world: World,
    state: State,
    batch: Batch,
    logged: tuple[Array, Array, Array],
    rate: Array,
    learns: Array,
) -> tuple[State, Metrics]:
    """One step of the values, and one of the policy if it learns, with a learning rate."""
    obs, action, safe = logged
    known = (world.normalizer(obs), action, safe)

    def loss(policy: Any) -> tuple[jax.Array, Metrics]:
        return policy_loss(hyper, nets, policy, state.multiplier, batch, known)

    grads, metrics = jax.grad(loss, has_aux=True)(state.policy)
    grads, _ = clip_gradient(grads, POLICY_GRADIENT_LIMIT)
    moved = descend(state.policy, state.policy_optimizer, grads, rate, eps=ADAM_EPS)
    policy, policy_optimizer = jax.tree.map(
        lambda new, old: jnp.where(learns, new, old), moved, (state.policy, state.policy_optimizer)
    )
    grads, more = jax.grad(lambda v: values_loss(nets, v, batch), has_aux=True)(state.values)
    grads, _ = clip_gradient(grads, VALUE_GRADIENT_LIMIT)
    values, value_optimizer = descend(
        state.values, state.value_optimizer, grads, VALUE_LEARNING_RATE, eps=ADAM_EPS
    )
    state = dataclasses.replace(
        state,
        policy=policy,
        values=values,
        policy_optimizer=policy_optimizer,
        value_optimizer=value_optimizer,
    )
    return state, metrics | more


def _with_advantages(hyper: Hyper, steps: Steps) -> Batch:
    """The steps as the losses read them, `[T, W, ...]`."""
    gains = advantages(
        steps.reward, steps.value, steps.next_value, steps.ends, hyper.discount, hyper.gae
    )
    costs = advantages(
        steps.cost,
        steps.cost_value,
        steps.next_cost_value,
        steps.ends,
        hyper.cost_discount,
        hyper.gae,
    )
    known = (steps.obs, steps.action, steps.log_prob)
    return Batch(*known, gains, costs, gains + steps.value, costs + steps.cost_value)


def _explained(value: Array, target: Array) -> jax.Array:
    """The share of the variance of the targets that the values explain; 0 without variance."""
    variance = jnp.var(target)
    share = 1.0 - jnp.var(target - value) / jnp.maximum(variance, 1e-8)
    return jnp.where(variance > 1e-8, share, 0.0)
