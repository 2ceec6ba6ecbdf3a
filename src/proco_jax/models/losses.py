"""Losses and targets on arrays; the networks are the caller's.

Every function works on one batch and refuses arrays whose shapes differ, so
that nothing broadcasts by accident.
"""

import chex
import jax
import jax.numpy as jnp

from proco_jax.types import Array


def expectile_loss(error: Array, expectile: float) -> jax.Array:
    """Asymmetric squared error `|expectile - 1[error < 0]| error^2`.

    With `expectile` near 1, a value fitted to `error = target - value`
    approaches the maximum of the target; with `1 - expectile`, the minimum.

    Args:
      error: `[B]`.
      expectile: in (0, 1).

    Returns:
      `[B]` losses.

    Source: IQL (Kostrikov et al. 2022), equation 5.
    """
    weight = jnp.where(error < 0, 1.0 - expectile, expectile)
    return weight * jnp.square(error)


def reachability_target(
    h: Array, next_value: Array, continues: Array, discount: float, duration: float = 0.0
) -> Array:
    """The discounted Hamilton-Jacobi backup: the worst h from here on.

        (1 - g) h + g max(h, V_h(s'))      while the episode goes on
        (1 - k) h + k max(0, V_h(s'))      instead, for k > 0, where h > 0
        h                                  where it truly terminates

    By the published backup (k = 0) it makes no difference within a violation
    what is done: all actions are as bad as can be. With k above 0 a violation
    counts the more the longer it lasts, and every violation still above 0.

    Args:
      h: `[B]` constraint value of the next state, positive when unsafe.
      next_value: `[B]` V_h of the next state.
      continues: `[B]` 0 at a true termination, else 1.
      discount: g in (0, 1).
      duration: k in [0, 1).

    Returns:
      `[B]` targets of Q_h, without gradient.

    Source: FISOR (Zheng et al. 2024), equation 7, after Fisac et al. 2019; the
    second line is ours.
    """
    chex.assert_equal_shape([h, next_value, continues])
    ahead = (1.0 - discount) * h + discount * jnp.maximum(h, next_value)
    if duration > 0:
        lasting = (1.0 - duration) * h + duration * jnp.maximum(0.0, next_value)
        ahead = jnp.where(h > 0, lasting, ahead)
    return jax.lax.stop_gradient(jnp.where(continues > 0, ahead, h))


def n_step_target(reward: Array, value: Array, discount: Array) -> Array:
    """`r_t + g r_{t+1} + ... + g^n V(s_{t+n})`.

    Args:
      reward: `[B]` discounted sum of n rewards.
      value: `[B]` V of the state after them.
      discount: `[B]` g^n, 0 behind a true termination.

    Returns:
      `[B]` targets, without gradient.
    """
    chex.assert_equal_shape([reward, value, discount])
    return jax.lax.stop_gradient(reward + discount * value)


def policy_weights(
    reward_advantage: Array,
    qh: Array,
    vh: Array,
    outcome: Array,
    temperatures: tuple[float, float],
    limits: tuple[float, float],
) -> Array:
    """Weights of the policy's regression on actions.

        V_h > 0                 min(exp(tc (V_h - G_h)), lc)
        V_h <= 0 and Q_h <= 0   min(exp(tr A), lr)
        otherwise               0

    Args:
      reward_advantage: `[B]` A, what the action earned more than V_r; -inf
        where that is not known, for a weight of 0.
      qh: `[B]` Q_h of the state and action.
      vh: `[B]` V_h of the state.
      outcome: `[B]` G_h, what V_h came to by what was done.
      temperatures: (tr, tc).
      limits: (lr, lc), the largest weights.

    Returns:
      `[B]` weights, without gradient.

    Source: FISOR (Zheng et al. 2024), equation 13, which has Q_h in place of G_h.
    """
    chex.assert_equal_shape([reward_advantage, qh, vh, outcome])
    safe = _clipped_exp(temperatures[0] * reward_advantage, limits[0])
    # A temperature of 0 must not give weight to what nobody knows.
    safe = jnp.where(jnp.isneginf(reward_advantage), 0.0, safe)
    unsafe = _clipped_exp(temperatures[1] * (vh - outcome), limits[1])
    weights = jnp.where(vh > 0, unsafe, jnp.where(qh <= 0, safe, 0.0))
    return jax.lax.stop_gradient(weights)


def robust_square(error: Array, limit: float) -> Array:
    """Squares of errors up to a limit, and the tangent beyond (Huber 1964); shapes as given."""
    size = jnp.abs(error)
    return jnp.where(size <= limit, jnp.square(error), limit * (2.0 * size - limit))


def gaussian_nll(error: Array, log_variance: Array) -> Array:
    """Negative log-likelihood of errors, up to a constant; shapes as given."""
    chex.assert_equal_shape([error, log_variance])
    return 0.5 * (jnp.square(error) * jnp.exp(-log_variance) + log_variance)


def weighted_cross_entropy(logits: Array, target: Array, positive_weight: float) -> Array:
    """Binary cross-entropy in which a missed positive weighs `positive_weight`.

    Args:
      logits: any shape.
      target: same shape, probabilities in [0, 1].
      positive_weight: weight of the positive part.

    Returns:
      Losses of that shape.
    """
    chex.assert_equal_shape([logits, target])
    positive = positive_weight * target * jax.nn.softplus(-logits)
    return positive + (1.0 - target) * jax.nn.softplus(logits)


def _clipped_exp(x: Array, limit: float) -> jax.Array:
    # Clipping the exponent first keeps the unused branch finite.
    return jnp.exp(jnp.minimum(x, jnp.log(limit)))
