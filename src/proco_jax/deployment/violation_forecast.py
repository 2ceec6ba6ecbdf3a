"""The violation forecast: how often shielded policies will violate, by the model alone.

Policies are rolled out in the fitted dynamics from held-out logged states, under the shield that
they are deployed with. The rule, without its margin, decides what violates. A trajectory counts as
long as the elites agree and until it violates; its first steps do not count, because the log went
on from its start without a violation. The violations per step give the share of whole episodes that
violate, with an interval. Neither the simulator nor a true cost enters.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2

from proco_jax.algorithms.base import Previous
from proco_jax.deployment.acting import Deployed, initial_previous, make_actor
from proco_jax.models import dynamics
from proco_jax.training.loop import Program
from proco_jax.types import Array

# Steps of an imagined trajectory, and how many of the first do not count.
HORIZON, SETTLE = 125, 25
# Each end of the interval is exceeded with a probability of 1 - CONFIDENCE.
CONFIDENCE = 0.95


class Counts(NamedTuple):
    """What n imagined trajectories of each of S policies came to.

    Attributes:
      violating: `[S]` trajectories that violated after they had settled.
      steps: `[S]` steps that counted.
    """

    violating: Array
    steps: Array


def count_violations(
    program: Program,
    deployed: Deployed,
    unsafe: Callable[[Array], Array],
    start: Array,
    horizon: int,
    settle: int,
    key: Array,
) -> Counts:
    """Rolls policies under the planner out in the model and counts violations.

    Args:
      unsafe: raw obs `[..., O]` to `[...]` bool.
      start: `[S, n, O]` raw.
      horizon: steps.
      settle: how many of them do not count.
      key: typed key.
    """
    assert deployed.shield is not None
    model = deployed.shield.dynamics
    policies, count, _ = start.shape
    actor = make_actor(program, "planner")

    def step(carry: tuple, step_key: Array) -> tuple:
        obs, alive, memory, previous = carry
        keys = jax.random.split(step_key, (policies, count))
        action, memory = actor.act(deployed, memory, obs, previous, keys, alive)
        next_obs, reward, disagreement = dynamics.predict_mean(program.dynamics, model, obs, action)
        known = jnp.all(jnp.isfinite(next_obs), axis=-1) & (disagreement <= model.limit)
        alive = alive & known
        next_obs = jnp.where(known[..., None], next_obs, obs)
        violates = unsafe(next_obs)
        bad = alive & violates
        previous = Previous(action, jnp.nan_to_num(reward), violates.astype(jnp.float32))
        carry = (next_obs, alive & ~bad, memory, previous)
        return carry, (bad.sum(axis=1), alive.sum(axis=1))

    begin = (
        jnp.asarray(start),
        jnp.ones((policies, count), bool),
        actor.initial_carry(policies, count),
        initial_previous(policies, count, program.task.action_size),
    )
    _, (violating, steps) = jax.lax.scan(step, begin, jax.random.split(key, horizon))
    return Counts(violating[settle:].sum(axis=0), steps[settle:].sum(axis=0))


def episode_share(violations: float, steps: int, episode_steps: int) -> float | None:
    """The share of episodes that violate, given violations per steps; None without steps."""
    return 1.0 - float(np.exp(-episode_steps * violations / steps)) if steps else None


def episode_interval(
    violating: int, steps: int, episode_steps: int
) -> tuple[float | None, float | None]:
    """Interval of the share of episodes that violate.

    Violations are counted as a Poisson process, whose exact limits are quantiles of chi-squared
    distributions (Garwood 1936). With no violation seen, the upper limit is 3 in all steps.
    """
    low = float(chi2.ppf(1.0 - CONFIDENCE, 2 * violating)) / 2.0 if violating else 0.0
    high = float(chi2.ppf(CONFIDENCE, 2 * violating + 2)) / 2.0
    return episode_share(low, steps, episode_steps), episode_share(high, steps, episode_steps)
