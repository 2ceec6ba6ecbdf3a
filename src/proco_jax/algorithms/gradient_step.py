"""One step of Adam, as every algorithm takes it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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
    return *descend(params, adam, grads, rate), beside


def descend(
    params: Any,
    adam: Any,
    grads: Any,
    rate: Array | float,
    decay: Array | None = None,
    eps: float = 1e-8,
) -> tuple[Any, Any]:
    """Moves parameters by one step of Adam, or of AdamW (Loshchilov and Hutter 2019) with a decay.

    Args:
      params: what moves.
      adam: state of `optax.scale_by_adam` for them.
      grads: of the loss.
      rate: learning rate.
      decay: weight decay; None for none.
      eps: Adam's, beside the root of the second moment.

    Returns:
      New parameters and Adam's new state.
    """
    updates, adam = optax.scale_by_adam(eps=eps).update(grads, adam)
    if decay is not None:
        updates = jax.tree.map(lambda u, p: u + decay * p, updates, params)
    updates = jax.tree.map(lambda x: -rate * x, updates)
    return optax.apply_updates(params, updates), adam


def clip_gradient(grads: Any, limit: Array | float) -> tuple[Any, jax.Array]:
    """Gradients whose global norm is `limit` at most, and the norm that they had, a scalar."""
    norm = optax.tree.norm(grads)
    shrink = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-6))
    return jax.tree.map(lambda x: shrink * x, grads), norm
