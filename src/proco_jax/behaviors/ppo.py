"""Proximal policy optimization for every price of a violation at once.

The objective of an episode is its reward minus a price times its cost. The price is an input of the
policy, and of two critics, one of the reward and one of the cost. Since both critics are learned
apart, the advantage for a price is that of the reward minus the price times that of the cost, and
one training covers the frontier from reckless to cautious policies.

    PPO: Schulman et al. 2017, arXiv 1707.06347; generalized advantages: Schulman et al. 2016,
    arXiv 1506.02438; the step size follows the divergence, as in section 4 of the former.

Dimensions: T steps, N worlds, B rows, F inputs, P inputs of the price, A actions.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms import imagination
from proco_jax.algorithms.gradient_step import clip_gradient, descend
from proco_jax.envs.behavior_inputs import INPUT_CLIP, PRICE_INPUTS
from proco_jax.models.networks import gaussian_log_density
from proco_jax.types import Array

Params = dict[str, Any]
Metrics = dict[str, jax.Array]
_SMALLEST_STEP, _LARGEST_STEP = 1e-5, 3e-3
# Of the norm of the gradient.
_GRADIENT_LIMIT = 1.0
# Inputs that vary less count as constant.
SMALLEST_DEVIATION = 1e-4


@dataclasses.dataclass(frozen=True)
class PPOSettings:
    """What shapes the learner.

    Attributes:
      hidden: widths of the hidden layers of the policy.
      critic_hidden: the same of each critic.
      discount: of both critics, per decision.
      gae: the lambda of generalized advantages.
      epochs: passes over the steps of an update.
      minibatches: gradient steps in a pass.
      clip: by how much a probability ratio may leave 1.
      entropy: weight of the policy's entropy.
      learning_rate: the first step size.
      divergence: of the policy in an update, above twice and below half of which the step size
        changes.
      first_std: standard deviation of the actions of the untrained policy.
      repeat: steps of the task for which an action is held in training, a decision.
    """

    hidden: tuple[int, ...] = (64, 64)
    critic_hidden: tuple[int, ...] = (64, 64)
    discount: float = 0.99
    gae: float = 0.95
    epochs: int = 8
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.001
    learning_rate: float = 1e-3
    divergence: float = 0.015
    first_std: float = 0.6
    repeat: int = 1


@struct.dataclass
class Normalizer:
    """Mean and variance of all inputs so far.

    Attributes:
      count: number of inputs.
      mean: `[F]`.
      square: `[F]`, sum of squared deviations.
    """

    count: jax.Array
    mean: jax.Array
    square: jax.Array

    def __call__(self, inputs: Array) -> jax.Array:
        """Inputs `[..., F]` with mean 0 and standard deviation 1, clipped."""
        deviation = jnp.sqrt(self.square / jnp.maximum(self.count, 1.0))
        # A constant input stays 0.
        scale = jnp.where(
            deviation > SMALLEST_DEVIATION, 1.0 / jnp.maximum(deviation, SMALLEST_DEVIATION), 0.0
        )
        scale = jnp.where(self.count > 0, scale, 1.0)
        return jnp.clip((inputs - self.mean) * scale, -INPUT_CLIP, INPUT_CLIP)


@struct.dataclass
class Learner:
    """The state of a training.

    Attributes:
      params: of `policy`, `reward_critic` and `cost_critic`.
      adam: moments of the optimizer.
      step_size: of the next update.
      normalizer: of the inputs.
      updates: number of updates so far.
    """

    params: Params
    adam: Any
    step_size: jax.Array
    normalizer: Normalizer
    updates: jax.Array


class Rollout(NamedTuple):
    """Steps of N worlds.

    Attributes:
      inputs: `[T, N, F]` of the policy, raw.
      next_inputs: `[T, N, F]` after the step, also where an episode ended.
      price: `[T, N]` of the episode.
      price_input: `[T, N, P]`, as networks see it.
      action: `[T, N, A]` as sampled.
      reward: `[T, N]`.
      cost: `[T, N]`.
      terminated: `[T, N]` bool, nothing follows the step.
      ended: `[T, N]` bool, the next row belongs to another episode.
    """

    inputs: Array
    next_inputs: Array
    price: Array
    price_input: Array
    action: Array
    reward: Array
    cost: Array
    terminated: Array
    ended: Array


class Rows(NamedTuple):
    """What a gradient step sees, `[B, ...]`.

    Attributes:
      inputs: `[B, F + P]`, normalized, with the price.
      action: `[B, A]`.
      log_prob: `[B]` of the action when it was sampled.
      advantage: `[B]`, normalized.
      reward_target: `[B]` of the reward critic.
      cost_target: `[B]` of the cost critic.
    """

    inputs: Array
    action: Array
    log_prob: Array
    advantage: Array
    reward_target: Array
    cost_target: Array


def init_learner(key: jax.Array, settings: PPOSettings, inputs: int, actions: int) -> Learner:
    """A fresh learner for F inputs and A actions."""
    first = inputs + PRICE_INPUTS
    policy, reward, cost = jax.random.split(key, 3)
    params = {
        "policy": {
            "layers": _init_layers(policy, (first, *settings.hidden, actions), 0.01),
            "log_std": jnp.full((PRICE_INPUTS, actions), math.log(settings.first_std), jnp.float32),
        },
        "reward_critic": _init_layers(reward, (first, *settings.critic_hidden, 1), 0.1),
        "cost_critic": _init_layers(cost, (first, *settings.critic_hidden, 1), 0.1),
    }
    return Learner(
        params=params,
        adam=optax.scale_by_adam().init(params),
        step_size=jnp.float32(settings.learning_rate),
        normalizer=Normalizer(jnp.zeros(()), jnp.zeros(inputs), jnp.zeros(inputs)),
        updates=jnp.zeros((), jnp.int32),
    )


def sample_actions(learner: Learner, inputs: Array, price_input: Array, key: jax.Array) -> Array:
    """Sampled actions `[N, A]` for inputs `[N, F]`; the worlds clip them."""
    rows = with_price(learner.normalizer, inputs, price_input)
    mean, log_std = policy_outputs(learner.params["policy"], rows)
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)


def update(
    key: jax.Array, settings: PPOSettings, learner: Learner, rollout: Rollout
) -> tuple[Learner, Metrics]:
    """One update with the steps of a rollout, whose T N is a multiple of the minibatches."""
    rows, metrics = make_rows(settings, learner, rollout)
    count = rows.action.shape[0]
    normalizer = updated(learner.normalizer, rollout.inputs)

    def step(carry: tuple[Params, Any, jax.Array], own: jax.Array) -> tuple[Any, Metrics]:
        params, adam, step_size = carry
        batch = jax.tree.map(lambda x: x[own], rows)
        grads, found = jax.grad(total_loss, has_aux=True)(params, settings, batch)
        grads, _ = clip_gradient(grads, _GRADIENT_LIMIT)
        params, adam = descend(params, adam, grads, step_size, eps=imagination.ADAM_EPS)
        return (params, adam, step_size), found

    def epoch(carry: tuple[Params, Any, jax.Array], key: jax.Array) -> tuple[Any, Metrics]:
        order = jax.random.permutation(key, count).reshape(settings.minibatches, -1)
        (params, adam, step_size), found = jax.lax.scan(step, carry, order)
        step_size = next_step_size(settings, step_size, jnp.mean(found["ppo/divergence"]))
        return (params, adam, step_size), found

    carry = (learner.params, learner.adam, learner.step_size)
    carry, found = jax.lax.scan(epoch, carry, jax.random.split(key, settings.epochs))
    metrics |= {name: jnp.mean(value) for name, value in found.items()}
    metrics["ppo/divergence"] = jnp.mean(found["ppo/divergence"][-1])
    params, adam, step_size = carry
    metrics["ppo/step_size"] = step_size
    return Learner(params, adam, step_size, normalizer, learner.updates + 1), metrics


def make_rows(settings: PPOSettings, learner: Learner, rollout: Rollout) -> tuple[Rows, Metrics]:
    """The rows `[T N, ...]` of gradient steps: advantages and targets by the critics as they are.

    A critic predicts the mean of the discounted rewards, that is their sum times 1 - discount,
    which is of the size of one reward.
    """
    params, discount = learner.params, settings.discount
    inputs = with_price(learner.normalizer, rollout.inputs, rollout.price_input)
    after = with_price(learner.normalizer, rollout.next_inputs, rollout.price_input)
    advantages, targets = {}, {}
    for name, signal in (("reward", rollout.reward), ("cost", rollout.cost)):
        critic = params[f"{name}_critic"]
        value, next_value = critic_outputs(critic, inputs), critic_outputs(critic, after)
        advantages[name] = generalized_advantages(
            (1.0 - discount) * signal,
            value,
            next_value,
            rollout.terminated,
            rollout.ended,
            discount,
            settings.gae,
        )
        targets[name] = value + advantages[name]
    advantage = priced_advantages(advantages["reward"], advantages["cost"], rollout.price)
    mean, log_std = policy_outputs(params["policy"], inputs)
    log_prob = log_probability(mean, log_std, rollout.action)
    rows = Rows(inputs, rollout.action, log_prob, advantage, targets["reward"], targets["cost"])
    metrics = {
        "rollout/reward": jnp.mean(rollout.reward),
        "rollout/cost": jnp.mean(rollout.cost),
        "rollout/std": jnp.mean(jnp.exp(log_std)),
    }
    for name in ("reward", "cost"):
        error = jnp.var(advantages[name]) / jnp.maximum(jnp.var(targets[name]), 1e-8)
        metrics[f"critic/{name}_explained"] = 1.0 - error
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows), metrics


def generalized_advantages(
    signal: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    ended: Array,
    discount: float,
    gae: float,
) -> jax.Array:
    """Generalized advantages `[T, N]`.

    Args:
      signal: `[T, N]`, of each step.
      value: `[T, N]`, the critic before the step.
      next_value: `[T, N]`, the critic after it, also where an episode was cut off.
      terminated: `[T, N]` bool, nothing follows the step.
      ended: `[T, N]` bool, the next row belongs to another episode.
      discount: of the critic.
      gae: 0 trusts the critic after one step, 1 only at the end.
    """
    following = jnp.where(terminated, 0.0, next_value)
    return imagination.advantages(signal, value, following, ended, discount, gae)


def priced_advantages(reward: Array, cost: Array, price: Array) -> jax.Array:
    """Advantages of reward minus price times cost, each in standard deviations for its price.

    Without the division, rows of high prices would outweigh all others.

    Args:
      reward: `[T, N]`, advantages of the reward.
      cost: `[T, N]`, advantages of the cost.
      price: `[T, N]`.
    """
    chex.assert_equal_shape([reward, cost, price])
    reward, cost = reward - jnp.mean(reward), cost - jnp.mean(cost)
    variance = jnp.mean(reward**2) + price**2 * jnp.mean(cost**2)
    return (reward - price * cost) / jnp.sqrt(variance + 1e-12)


def total_loss(params: Params, settings: PPOSettings, rows: Rows) -> tuple[jax.Array, Metrics]:
    """The loss of policy and critics; each term moves one network only."""
    mean, log_std = policy_outputs(params["policy"], rows.inputs)
    log_prob = log_probability(mean, log_std, rows.action)
    clip = jnp.float32(settings.clip)
    policy = imagination.surrogate_loss(log_prob, rows.log_prob, rows.advantage, clip)
    entropy = jnp.mean(jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1))
    value, cost_value = (
        critic_outputs(params[name], rows.inputs) for name in ("reward_critic", "cost_critic")
    )
    reward = 0.5 * imagination.value_loss(value, rows.reward_target)
    cost = 0.5 * imagination.value_loss(cost_value, rows.cost_target)
    ratio = log_prob - rows.log_prob
    metrics = {
        "ppo/policy_loss": policy,
        "ppo/reward_critic_loss": reward,
        "ppo/cost_critic_loss": cost,
        "ppo/entropy": entropy,
        "ppo/divergence": jnp.mean(jnp.expm1(ratio) - ratio),
    }
    return policy - settings.entropy * entropy + reward + cost, metrics


def next_step_size(settings: PPOSettings, step_size: Array, divergence: Array) -> jax.Array:
    """The step size after an epoch in which the policy diverged by so much."""
    factor = jnp.where(divergence > 2.0 * settings.divergence, 1 / 1.5, 1.0)
    factor = jnp.where(divergence < 0.5 * settings.divergence, 1.5, factor)
    return jnp.clip(step_size * factor, _SMALLEST_STEP, _LARGEST_STEP)


def with_price(normalizer: Normalizer, inputs: Array, price_input: Array) -> jax.Array:
    """Normalized inputs `[..., F + P]` of a network: those of the observation, and the price."""
    return jnp.concatenate([normalizer(inputs), jnp.asarray(price_input)], axis=-1)


def policy_outputs(params: Params, rows: Array) -> tuple[jax.Array, jax.Array]:
    """Means and log standard deviations, both `[..., A]`, of the actions.

    The deviation depends on the price alone.
    """
    price = rows[..., -PRICE_INPUTS:]
    return _apply(params["layers"], rows), jnp.clip(price @ params["log_std"], -3.0, 0.5)


def critic_outputs(layers: list[dict[str, Array]], rows: Array) -> jax.Array:
    """Values `[...]`."""
    return _apply(layers, rows)[..., 0]


def log_probability(mean: Array, log_std: Array, action: Array) -> jax.Array:
    """The log density `[...]` of actions `[..., A]`."""
    constant = 0.5 * math.log(2 * math.pi) * action.shape[-1]
    return gaussian_log_density(mean, log_std, action) - constant


def updated(normalizer: Normalizer, inputs: Array) -> Normalizer:
    """The normalizer after further inputs `[..., F]` (Chan et al. 1979)."""
    rows = jnp.reshape(inputs, (-1, inputs.shape[-1]))
    count = jnp.float32(rows.shape[0])
    mean = jnp.mean(rows, axis=0)
    square = jnp.sum((rows - mean) ** 2, axis=0)
    total = normalizer.count + count
    apart = mean - normalizer.mean
    return Normalizer(
        total,
        normalizer.mean + apart * count / total,
        normalizer.square + square + apart**2 * normalizer.count * count / total,
    )


def _init_layers(key: jax.Array, sizes: tuple[int, ...], last: float) -> list[dict[str, Array]]:
    """Orthogonal weights; those of the last layer are small, so that the outputs begin near 0."""
    keys = jax.random.split(key, len(sizes) - 1)
    layers = []
    for k, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        scale = last if k == len(sizes) - 2 else math.sqrt(2.0)
        weight = jax.nn.initializers.orthogonal(scale)(keys[k], (rows, columns))
        layers.append({"weight": weight, "bias": jnp.zeros(columns)})
    return layers


def _apply(layers: list[dict[str, Array]], rows: Array) -> jax.Array:
    x = jnp.asarray(rows)
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["weight"] + layer["bias"])
    return x @ layers[-1]["weight"] + layers[-1]["bias"]
