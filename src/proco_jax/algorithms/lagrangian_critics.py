"""The reward and cost critics that BCQ-Lag and BEAR-Lag share.

Both algorithms have two groups of two critics for the reward and as many for the cost, and back up
the values of several candidate actions in the next state. The critics of one kind are heads behind
one encoder.

The code of OSRL (Liu et al. 2023) treats costs exactly as rewards: the smaller of two critics, the
largest value among the candidates. Its cost backup passes true terminations, its reward backup
ends there and at time limits. By default we use the larger of two cost critics (the smaller one
overlooks violations), back up both values of the candidate that the policy would choose, and stop
both backups at true terminations alone.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from proco_jax.algorithms.temporal_difference import td_targets
from proco_jax.models.networks import Critic, apply
from proco_jax.types import Array, Transition

GROUPS, MEMBERS = 2, 2
HEADS = GROUPS * MEMBERS


def values(
    q_net: Critic, qc_net: Critic, params: Any, obs: Array, action: Array, as_published: bool
) -> tuple[jax.Array, jax.Array]:
    """Q and Q_c by which a policy is judged, each `[B]`.

    Q is the smallest head; Q_c the largest, or the smallest `as_published`.

    Args:
      params: of the two critics, `{"q", "qc"}`.
      obs: `[B, O]`, or `[O]` for all actions.
      action: `[B, A]`.
    """
    obs = jnp.broadcast_to(obs, (*action.shape[:-1], obs.shape[-1]))
    q, qc = apply(q_net, params["q"], obs, action), apply(qc_net, params["qc"], obs, action)
    worst = jnp.min if as_published else jnp.max
    return jnp.min(q, axis=-1), worst(qc, axis=-1)


def best_candidate(q: Array, qc: Array, multiplier: Array) -> jax.Array:
    """Index of the candidate with the largest Q - lambda Q_c: `[..., n]` to `[...]`."""
    chex.assert_equal_shape([q, qc])
    return jnp.argmax(q - multiplier * qc, axis=-1)


def best_action(
    q_net: Critic,
    qc_net: Critic,
    params: Any,
    obs: Array,
    actions: Array,
    multiplier: Array,
    as_published: bool,
) -> jax.Array:
    """Of actions `[n, A]` in one state `[O]`, the one with the largest Q - lambda Q_c."""
    judged = values(q_net, qc_net, params, obs, actions, as_published)
    return actions[best_candidate(*judged, multiplier)]


def candidate_targets(
    q_net: Critic,
    qc_net: Critic,
    targets: Any,
    batch: Transition,
    actions: Array,
    multiplier: Array,
    hyper: Any,
    as_published: bool,
) -> tuple[jax.Array, jax.Array]:
    """Targets of Q and Q_c `[B]` by n candidate actions in the next state.

    Args:
      targets: parameters of the target critics, `{"q", "qc"}`.
      actions: `[B, n, A]`.
      multiplier: lambda by which the policy chooses among them.
      hyper: with `soft_minimum`, `discount` and `reward_scale`.
    """
    obs = jnp.broadcast_to(batch.next_obs[:, None], (*actions.shape[:2], batch.obs.shape[-1]))
    next_q, next_qc = next_values(
        apply(q_net, targets["q"], obs, actions),
        apply(qc_net, targets["qc"], obs, actions),
        multiplier,
        hyper.soft_minimum,
        as_published,
    )
    return td_targets(batch, next_q, next_qc, hyper.discount, hyper.reward_scale, as_published)


def next_values(
    q_heads: Array,
    qc_heads: Array,
    multiplier: Array,
    soft_minimum: Array,
    as_published: bool,
) -> tuple[jax.Array, jax.Array]:
    """Q and Q_c of the next state, each `[B]`.

    The value of a candidate is `w min(g1, g2) + (1 - w) max(g1, g2)` over the two groups, each the
    smaller of its two heads; for costs with the larger ones first.

    Args:
      q_heads: `[B, n, HEADS]` target critics of n candidates.
      qc_heads: the same of costs.
      multiplier: lambda by which the policy chooses among candidates.
      soft_minimum: w.
    """
    chex.assert_equal_shape([q_heads, qc_heads])
    q = -_soft_maximum(-q_heads, soft_minimum)
    if as_published:
        qc = -_soft_maximum(-qc_heads, soft_minimum)
        return jnp.max(q, axis=-1), jnp.max(qc, axis=-1)
    qc = _soft_maximum(qc_heads, soft_minimum)
    best = best_candidate(q, qc, multiplier)[:, None]
    return (
        jnp.take_along_axis(q, best, axis=1)[:, 0],
        jnp.take_along_axis(qc, best, axis=1)[:, 0],
    )


def _soft_maximum(heads: Array, weight: Array) -> jax.Array:
    """`w` times the larger and `1 - w` times the smaller group, each its largest head."""
    groups = jnp.max(heads.reshape(*heads.shape[:-1], GROUPS, MEMBERS), axis=-1)
    return weight * jnp.max(groups, axis=-1) + (1.0 - weight) * jnp.min(groups, axis=-1)
