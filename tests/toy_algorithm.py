"""A linear Gaussian policy, fitted to logged actions by gradient descent: the smallest algorithm.

It uses nothing of the package but the public contract, by the name `toy_algorithm:make`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.algorithms.base import Algorithm, Previous
from proco_jax.config.schema import Config
from proco_jax.types import Array, TaskSpec, Transition


class Hyper(NamedTuple):
    """Step size of gradient descent, and standard deviation of the policy."""

    learning_rate: Array
    noise: Array


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task; its state is the matrix `[O, A]` of the policy's mean."""
    shape = (task.observation.size, task.action_size)

    def update(key: Array, hyper: Hyper, weights: Array, batch: Transition) -> tuple[Array, dict]:
        def loss(weights: Array) -> jax.Array:
            logged = jnp.where(batch.imagined, 0.0, batch.weight)[:, None]
            return jnp.sum(logged * jnp.square(batch.obs @ weights - batch.action)) / logged.sum()

        value, gradient = jax.value_and_grad(loss)(weights)
        return weights - hyper.learning_rate * gradient, {"toy/loss": value}

    def sample_actions(
        key: Array, hyper: Hyper, weights: Array, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        noise = hyper.noise * jax.random.normal(key, (n, task.action_size))
        return jnp.clip(obs @ weights + noise, -1.0, 1.0), carry

    def act(
        key: Array, hyper: Hyper, weights: Array, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        return sample_actions(key, hyper, weights, carry, obs, previous, 1)[0][0], carry

    return Algorithm(
        name="toy",
        batch="transition",
        hyper=Hyper(jnp.float32(0.02), jnp.float32(0.1)),
        init=lambda key, hyper: 0.1 * jax.random.normal(key, shape),
        update=update,
        initial_carry=lambda: (),
        act=act,
        sample_actions=sample_actions,
    )
