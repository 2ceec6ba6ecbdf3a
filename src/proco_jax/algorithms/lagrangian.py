"""The cost limit as a limit of values, and the multiplier of a constraint by a PID controller.

Source: Stooke et al. 2020 for the controller; gains and the form of the limit as in the code of
OSRL (Liu et al. 2023).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.types import Array


class PidHyper(NamedTuple):
    """Gains on error, sum of errors and increase of the error; the largest sum of errors."""

    proportional_gain: Array
    integral_gain: Array
    derivative_gain: Array
    integral_limit: Array


class Pid(NamedTuple):
    """State of a controller: sum of errors, last error, and multiplier, all scalars."""

    integral: Array
    error: Array
    multiplier: Array


def value_limit(cost_limit: Array, steps: int, discount: Array) -> jax.Array:
    """The discounted cost `L (1 - g^T) / (1 - g) / T` of an episode that spreads its limit evenly.

    Args:
      cost_limit: L, cost per episode.
      steps: T, the time limit of an episode.
      discount: g in (0, 1).
    """
    # expm1 keeps the digits of 1 - g^T where g is almost 1.
    return cost_limit * -jnp.expm1(steps * jnp.log(discount)) / (1.0 - discount) / steps


def initial_pid() -> Pid:
    """A controller that has seen no error."""
    return Pid(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def pid_step(hyper: PidHyper, pid: Pid, error: Array, as_published: bool) -> Pid:
    """The controller after one more error.

        I <- min(relu(I + e), integral_limit)
        multiplier = kp relu(e) + ki I + kd relu(relu(e) - relu(e_before))

    Published, I has no limit, and the last term is kd relu(e - e_before). Without the limit, a
    constant error of 1 gives multipliers of 3, 30 and 300 after 1, 10 and 100 thousand steps with
    the usual gain of 0.003, and they take as long to come down again. With the published last term,
    the multiplier is not 0 while errors below 0 rise.

    Args:
      error: cost value minus its limit, a scalar; no gradient passes through it.
    """
    error = jax.lax.stop_gradient(error)
    integral = jax.nn.relu(pid.integral + error)
    rise = jax.nn.relu(error - pid.error)
    if not as_published:
        integral = jnp.minimum(integral, hyper.integral_limit)
        rise = jax.nn.relu(jax.nn.relu(error) - jax.nn.relu(pid.error))
    multiplier = (
        hyper.proportional_gain * jax.nn.relu(error)
        + hyper.integral_gain * integral
        + hyper.derivative_gain * rise
    )
    return Pid(integral, error, multiplier)
