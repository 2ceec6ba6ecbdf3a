"""Behavior cloning.

A Gaussian policy fitted to logged actions by maximum likelihood. With `safe_only` (the default,
BC-Safe), rows whose n-step window holds a violation are left out; without (BC-All), all logged rows
count. On logs without violations the two are equal. Generated costs act through `safe_only` alone:
they mark logged rows that lead to states that the knowledge calls unsafe. Imagined rows are never
cloned, because their actions were chosen to explore; rows of imagined episodes, which are not
marked as imagined, are cloned as logged ones are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import Config
from proco_jax.models.networks import (
    GaussianPolicy,
    log_probability,
    make_encoder,
    sample_gaussian,
)
from proco_jax.types import Array, TaskSpec, Transition


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.BcConfig`."""

    learning_rate: Array


@struct.dataclass
class State:
    """Parameters of the policy, Adam's state for them, and gradient steps done."""

    params: Any
    optimizer: optax.OptState
    step: Array


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config."""
    encoder = make_encoder(config.encoder, task.observation).clone(flat=True)
    net = GaussianPolicy(encoder, config.bc.hidden, task.action_size)
    decay = optax.cosine_decay_schedule(1.0, config.train.steps)

    def sample_actions(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        return sample_gaussian(net, state.params, obs, key, n), carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        return sample_actions(key, hyper, state, carry, obs, previous, 1)[0][0], carry

    return Algorithm(
        name="bc",
        batch="transition",
        hyper=hyper_from(config.bc, Hyper),
        init=lambda key, hyper: init(net, key),
        update=lambda key, hyper, state, batch: update(
            hyper, net, state, batch, config.bc.safe_only, decay(state.step)
        ),
        initial_carry=lambda: (),
        act=act,
        sample_actions=sample_actions,
    )


def init(net: GaussianPolicy, key: Array) -> State:
    """A fresh state."""
    params = net.init(key, jnp.zeros(net.encoder.spec.size))
    return State(params, optax.scale_by_adam().init(params), jnp.int32(0))


def update(
    hyper: Hyper,
    net: GaussianPolicy,
    state: State,
    batch: Transition,
    safe_only: bool,
    rate: Array | float = 1.0,
) -> tuple[State, Metrics]:
    """One gradient step.

    Args:
      rate: factor on the learning rate.
    """

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        value = cloning_loss(net, params, batch, safe_only)
        return value, {"bc/policy_loss": value}

    params, optimizer, metrics = gradient_step(
        loss, state.params, state.optimizer, hyper.learning_rate * rate
    )
    return State(params, optimizer, state.step + 1), metrics


def cloning_loss(net: GaussianPolicy, params: Any, batch: Transition, safe_only: bool) -> jax.Array:
    """Negative log-likelihood of the logged actions that count, their mean."""
    weight = jnp.where(batch.imagined, 0.0, batch.weight)
    if safe_only:
        weight = jnp.where(jnp.any(batch.n_step.violation, axis=1), 0.0, weight)
    log_prob = log_probability(net, params, batch.obs, batch.action)
    return -jnp.sum(weight * log_prob) / jnp.maximum(jnp.sum(weight), 1.0)
