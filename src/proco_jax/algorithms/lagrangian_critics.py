"""The reward and cost critics that BCQ-Lag and BEAR-Lag share.

Both algorithms have two groups of two critics for the reward and as many for the cost, and back up
the values of several candidate actions in the next state. The critics of one kind are heads behind
one encoder.

The code of OSRL (Liu et al. 2023) treats costs exactly as rewards: the smaller of two critics, the
largest value among the candidates, and a backup that passes true terminations. By default we use
the larger of two cost critics (the smaller one overlooks violations), back up both values of the
candidate that the policy would choose, and stop both backups at true terminations.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from proco_jax.algorithms.base import Metrics
from proco_jax.models.losses import weighted_mean
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


def td_targets(
    batch: Transition,
    next_q: Array,
    next_qc: Array,
    discount: Array,
    reward_scale: Array,
    as_published: bool,
) -> tuple[jax.Array, jax.Array]:
    """Targets of Q and Q_c, each `[B]`, without gradient.

    Time limits stop no backup. The published code does stop that of the reward there; a batch does
    not say where time limits are, so this is left out `as_published` too.
    """
    chex.assert_equal_shape([batch.reward, batch.cost, batch.discount, next_q, next_qc])
    continues = jnp.ones_like(batch.discount) if as_published else batch.discount
    target_q = reward_scale * batch.reward + discount * batch.discount * next_q
    target_qc = batch.cost + discount * continues * next_qc
    return jax.lax.stop_gradient(target_q), jax.lax.stop_gradient(target_qc)


def td_loss(
    net: Critic, params: Any, batch: Transition, target: Array, weight: Array, name: str
) -> tuple[jax.Array, Metrics]:
    """Squared errors summed over heads, their weighted mean over rows.

    Args:
      target: `[B]`.
      weight: `[B]`.
      name: of the critic in metrics.
    """
    heads = apply(net, params, batch.obs, batch.action)
    loss = weighted_mean(jnp.sum(jnp.square(heads - target[:, None]), axis=-1), weight)
    return loss, {f"{name}_loss": loss, name: weighted_mean(jnp.mean(heads, axis=-1), weight)}


def _soft_maximum(heads: Array, weight: Array) -> jax.Array:
    """`w` times the larger and `1 - w` times the smaller group, each its largest head."""
    groups = jnp.max(heads.reshape(*heads.shape[:-1], GROUPS, MEMBERS), axis=-1)
    return weight * jnp.max(groups, axis=-1) + (1.0 - weight) * jnp.min(groups, axis=-1)
