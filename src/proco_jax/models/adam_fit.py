"""A fit of a small network as one compiled loop: Adam with a step size that decays by a cosine."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from proco_jax.types import Array


def adam_fit(
    loss: Callable[[Any, Array], jax.Array], params: Any, learning_rate: float, keys: Array
) -> Any:
    """Parameters after one step of Adam (Kingma and Ba 2015) for each key.

    Args:
      loss: parameters and a key, with which it draws its rows, to a scalar.
      params: where the fit begins.
      learning_rate: of the first step; it decays to 0 at the last one.
      keys: `[steps]`.
    """
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, keys.shape[0]))

    def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        params, moments = carry
        updates, moments = adam.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, adam.init(params)), keys)[0][0]
