"""One step of Adam, as every algorithm takes it."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from proco_jax.types import Array


def gradient_step(
    loss: Callable[[Any], tuple[jax.Array, Any]], params: Any, adam: Any, rate: Array
) -> tuple[Any, Any, Any]:
    """Descends `loss` by Adam.

    Args:
      loss: parameters to (scalar, anything else that is worth returning).
      params: what moves.
      adam: state of `optax.scale_by_adam` for them.
      rate: learning rate.

    Returns:
      New parameters, Adam's new state, and what `loss` returned beside the scalar.
    """
    grads, beside = jax.grad(loss, has_aux=True)(params)
    updates, adam = optax.scale_by_adam().update(grads, adam)
    updates = jax.tree.map(lambda x: -rate * x, updates)
    return optax.apply_updates(params, updates), adam, beside
