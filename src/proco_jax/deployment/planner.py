"""The planner of the shield: a short-horizon search in the learned model.

Where no action of the policy is feasible, single actions hardly differ in Q_h, since one step moves
a robot by about a centimeter. A sequence of actions that lasts does make a difference: the planner
rolls random persistent sequences out in the model and takes the first action of the one with the
least sum of max(V_h, 0).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from proco_jax.augmentation.rollouts import evaluate_plans, persistent_actions
from proco_jax.types import Array

# Rows that are planned for in one batch, where the config leaves it open. A CPU computes no more
# than it must; an accelerator needs many rows to be busy.
CPU_BLOCK, ACCELERATOR_BLOCK = 4, 256


def make_plans(horizon: int, candidates: int, action_size: int, persistence: float) -> jax.Array:
    """The action sequences `[H, C, A]` of the planner.

    They are random but always the same: with new ones at every step, a robot that has come to rest
    at the edge of the unsafe set takes another direction each time, and stays there.
    """
    return persistent_actions(jax.random.key(0), (horizon, candidates, action_size), persistence)


def best_first_action(
    step: Callable[[Array, Array], jax.Array],
    vh: Callable[[Array], jax.Array],
    plans: Array,
    start: Array,
) -> jax.Array:
    """The first action `[A]` of the sequence that is infeasible least and shortest.

    Args:
      step: raw obs `[C, O]` and actions `[C, A]` to the next obs.
      vh: raw obs `[C, O]` to V_h `[C]`.
      plans: `[H, C, A]`.
      start: `[O]` raw.
    """
    candidates = plans.shape[1]
    total = evaluate_plans(
        step,
        lambda total, obs: total + jnp.maximum(vh(obs), 0.0),
        plans,
        jnp.broadcast_to(start, (candidates, *start.shape)),
        jnp.zeros(candidates),
    )
    # A diverged model may return anything; a sequence whose value is not finite is not taken.
    return plans[0, jnp.argmin(jnp.where(jnp.isfinite(total), total, jnp.inf))]


def for_needed_rows(
    function: Callable[[Array], jax.Array], rows: Array, needed: Array, block: int
) -> jax.Array:
    """Applies a function of one row to those rows that need it, in batches of fixed size.

    The rows that need it are moved to the front and processed block by block, so the cost grows
    with their number, and each block is one dense batch.

    Args:
      function: `[O]` to `[A]`.
      rows: `[n, O]`.
      needed: `[n]` bool.
      block: rows per batch.

    Returns:
      `[n, A]`, zeros where not needed.
    """
    size = rows.shape[0]
    block = min(block, size)
    order = jnp.argsort(~needed, stable=True)
    # Indices beyond the last row are dropped when results are written.
    order = jnp.concatenate([order, jnp.full(-size % block, size, order.dtype)])
    count = jnp.sum(needed)
    shape = jax.eval_shape(function, rows[0])

    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        i, found = carry
        at = jax.lax.dynamic_slice(order, (i * block,), (block,))
        new = jax.vmap(function)(rows[jnp.minimum(at, size - 1)])
        return i + 1, found.at[at].set(new, mode="drop")

    first = (jnp.int32(0), jnp.zeros((size, *shape.shape), shape.dtype))
    _, found = jax.lax.while_loop(lambda carry: carry[0] * block < count, body, first)
    return jnp.where(needed[:, None], found, 0.0)
