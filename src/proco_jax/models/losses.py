"""Losses and targets as functions of arrays, of which those of models and algorithms consist.

Every function takes one batch and rejects arrays of different shapes, so that nothing is
broadcast by accident.
"""

import chex
import jax
import jax.numpy as jnp

from proco_jax.types import Array

# The share of values within one standard deviation of a Gaussian.
_USUAL = 0.683


def expectile_loss(error: Array, expectile: Array | float) -> jax.Array:
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
    h: Array,
    next_value: Array,
    continues: Array,
    discount: Array | float,
    violation_discount: Array | float = 0.0,
) -> Array:
    """The discounted Hamilton-Jacobi backup: the worst h from here on.

        (1 - g) h + g max(h, V_h(s'))      while the episode continues
        (1 - k) h + k max(0, V_h(s'))      instead, for k > 0, where h > 0
        h                                  at a true termination

    In the published backup (k = 0) all actions within a violation have the same value. With
    k > 0 the value of a violation grows with its length and stays above 0.

    Args:
      h: `[B]` constraint value of the next state, positive when unsafe.
      next_value: `[B]` V_h of the next state.
      continues: `[B]` 0 at a true termination, else 1.
      discount: g in (0, 1).
      violation_discount: k in [0, 1).

    Returns:
      `[B]` targets of Q_h, without gradient.

    Source: FISOR (Zheng et al. 2024), equation 7, after Fisac et al. 2019; the second line is ours.
    """
    chex.assert_equal_shape([h, next_value, continues])
    published = (1.0 - discount) * h + discount * jnp.maximum(h, next_value)
    k = violation_discount
    lasting = (1.0 - k) * h + k * jnp.maximum(0.0, next_value)
    backup = jnp.where((h > 0) & (jnp.asarray(k) > 0), lasting, published)
    return jax.lax.stop_gradient(jnp.where(continues > 0, backup, h))


def n_step_target(
    reward: Array, valid: Array, value: Array, continues: Array, discount: Array | float
) -> Array:
    """`r_t + g r_{t+1} + ... + g^m V(s_{t+m})` over the m valid steps of a window.

    Args:
      reward: `[B, n]`.
      valid: `[B, n]` bool, a prefix of each row, at least one.
      value: `[B]` V of the state after the last valid step.
      continues: `[B]` 0 if that step is a true termination, else 1.
      discount: g.

    Returns:
      `[B]` targets, without gradient.
    """
    chex.assert_equal_shape([reward, valid])
    chex.assert_equal_shape([reward[:, 0], value, continues])
    powers = discount ** jnp.arange(reward.shape[1])[None]
    earned = jnp.sum(jnp.where(valid, powers * reward, 0.0), axis=1)
    last = continues * discount ** jnp.sum(valid, axis=1)
    return jax.lax.stop_gradient(earned + last * value)


def policy_weights(
    reward_advantage: Array,
    qh: Array,
    vh: Array,
    outcome: Array,
    temperatures: tuple[Array | float, Array | float],
    limits: tuple[Array | float, Array | float],
) -> Array:
    """Weights of the policy's regression on actions.

        V_h > 0                 min(exp(tc (V_h - G_h)), lc)
        V_h <= 0 and Q_h <= 0   min(exp(tr A), lr)
        otherwise               0

    Args:
      reward_advantage: `[B]` A, the n-step return minus V_r; -inf where it is unknown, for a
        weight of 0.
      qh: `[B]` Q_h of the state and action.
      vh: `[B]` V_h of the state.
      outcome: `[B]` G_h, the n-step backup of V_h along the actions that were taken.
      temperatures: (tr, tc).
      limits: (lr, lc), the largest weights.

    Returns:
      `[B]` weights, without gradient.

    Source: FISOR (Zheng et al. 2024), equation 13, which has Q_h in place of G_h.
    """
    chex.assert_equal_shape([reward_advantage, qh, vh, outcome])
    safe = _clipped_exp(temperatures[0] * reward_advantage, limits[0])
    # A temperature of 0 must not give weight to rows whose advantage is unknown.
    safe = jnp.where(jnp.isneginf(reward_advantage), 0.0, safe)
    unsafe = _clipped_exp(temperatures[1] * (vh - outcome), limits[1])
    weights = jnp.where(vh > 0, unsafe, jnp.where(qh <= 0, safe, 0.0))
    return jax.lax.stop_gradient(weights)


def weighted_mean(values: Array, weight: Array) -> jax.Array:
    """Mean of `values [B]` with weights `[B]`; 0 if all weights are 0.

    Where weights are small, they count as fractions of one row: the sum is divided by 1 at least.
    """
    chex.assert_equal_shape([values, weight])
    return jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1.0)


def usual_size(values: Array, known: Array) -> jax.Array:
    """The size below which two thirds of the values lie: one standard deviation of a Gaussian.

    In this unit a temperature means the same for every task, whatever the scale of its rewards.

    Args:
      values: `[B]`.
      known: `[B]` bool, which of them count.
    """
    chex.assert_equal_shape([values, known])
    sizes = jnp.where(known, jnp.abs(values), jnp.nan)
    return jnp.maximum(jnp.nanquantile(sizes, _USUAL), 1e-6)


def robust_square(error: Array, limit: float) -> Array:
    """Squares of errors up to a limit, and the tangent beyond (Huber 1964); shapes as given."""
    size = jnp.abs(error)
    return jnp.where(size <= limit, jnp.square(error), limit * (2.0 * size - limit))


def gaussian_nll(error: Array, log_variance: Array) -> Array:
    """Negative log-likelihood of errors, up to a constant; shapes as given."""
    chex.assert_equal_shape([error, log_variance])
    return 0.5 * (jnp.square(error) * jnp.exp(-log_variance) + log_variance)


def weighted_cross_entropy(logits: Array, target: Array, positive_weight: float) -> Array:
    """Binary cross-entropy in which the positive class has the weight `positive_weight`.

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


def _clipped_exp(x: Array, limit: Array | float) -> jax.Array:
    # Clipping the exponent first keeps the unused branch finite.
    return jnp.exp(jnp.minimum(x, jnp.log(limit)))
