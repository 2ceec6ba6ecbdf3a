"""The violation forecast: how often shielded policies will violate, by the model alone.

Policies are rolled out in the fitted dynamics from held-out logged states, under the shield that
they are deployed with. The rule, without its margin, decides what violates. A trajectory counts as
long as the elites agree and until it violates or its episode ends, e.g. by a fall. A goal that it
reaches is drawn anew, as in the logs (`models/bonus.py`): no log shows what is seen of a goal that
a robot drives over. Its first steps do not count, because the log went on from its start without a
violation. Neither the simulator nor a true cost enters.

Layouts differ in how dangerous they are: violations cluster in few of the held-out episodes. So the
rate of violations per step is taken as gamma distributed over episodes, and the counts of each
episode are negative binomial (Greenwood and Yule 1920). A single rate for all would forecast too
many violating episodes from the same violations, and an interval that is too narrow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln
from scipy.stats import chi2

from proco_jax.algorithms.base import Previous
from proco_jax.deployment.acting import Deployed, initial_previous, make_actor
from proco_jax.models import bonus, dynamics, object_map
from proco_jax.training.loop import Program
from proco_jax.types import Array

# Steps of an imagined trajectory, and how many of the first do not count.
HORIZON, SETTLE = 125, 25
# Folded into the key of a step for the events in it.
EVENTS = 2**31 - 1
# Each end of the interval is exceeded with a probability of 1 - CONFIDENCE.
CONFIDENCE = 0.95
# Shapes of the distribution of rates that are compared; the last does not differ from one rate.
SHAPES = np.exp(np.linspace(-4.0, 8.0, 49))
# How often the held-out episodes are drawn with replacement.
RESAMPLES = 400


class Counts(NamedTuple):
    """What n imagined trajectories of each of S policies came to.

    Attributes:
      violating: `[S, n]` whether a trajectory violated after it had settled, 0 or 1.
      ended: `[S, n]` whether its episode ended after it had settled, without a violation.
      steps: `[S, n]` its steps that counted.
    """

    violating: Array
    ended: Array
    steps: Array


def count_violations(
    program: Program,
    deployed: Deployed,
    unsafe: Callable[[Array], Array],
    start: Array,
    horizon: int,
    settle: int,
    key: Array,
    ends: Callable[[Array], Array] | None = None,
    events: bonus.BonusModel | None = None,
) -> Counts:
    """Rolls policies under the planner out in the model and counts violations.

    Args:
      unsafe: raw obs `[..., O]` to `[...]` bool.
      start: `[S, n, O]` raw.
      horizon: steps.
      settle: how many of them do not count.
      key: typed key.
      ends: raw obs `[..., O]` to `[...]` bool, whether a state ends its episode; None if none does.
      events: the event model of rare bonuses, which draws e.g. a reached goal anew; None for none.
    """
    assert deployed.shield is not None
    model, spec = deployed.shield.dynamics, program.dynamics.spec
    policies, count, _ = start.shape
    actor = make_actor(program, "planner")

    def step(carry: tuple, step_key: Array) -> tuple:
        state, alive, memory, previous = carry
        obs = object_map.observation(spec, state)
        keys = jax.random.split(step_key, (policies, count))
        action, memory = actor.act(deployed, memory, obs, previous, keys, alive)
        next_state, reward, disagreement = dynamics.predict_mean(
            program.dynamics, model, state, action
        )
        known = jnp.all(jnp.isfinite(next_state), axis=-1) & (disagreement <= model.limit)
        alive = alive & known
        next_state = jnp.where(known[..., None], next_state, state)
        if events is not None:
            event_key, draw_key = jax.random.split(jax.random.fold_in(step_key, EVENTS))
            chance = bonus.probability(spec, events, obs, action)
            occurs = jax.random.bernoulli(event_key, chance).reshape(-1)
            flat = next_state.reshape(-1, next_state.shape[-1])
            flat = bonus.after_bonus(spec, events, draw_key, flat, occurs)
            next_state = flat.reshape(next_state.shape)
        next_obs = object_map.observation(spec, next_state)
        violates = unsafe(next_obs)
        bad = alive & violates
        over = jnp.zeros_like(bad) if ends is None else alive & ~bad & ends(next_obs)
        previous = Previous(action, jnp.nan_to_num(reward), violates.astype(jnp.float32))
        carry = (next_state, alive & ~bad & ~over, memory, previous)
        return carry, (bad, over, alive)

    begin = (
        object_map.begin(spec, jnp.asarray(start)),
        jnp.ones((policies, count), bool),
        actor.initial_carry(policies, count),
        initial_previous(policies, count, program.task.action_size),
    )
    _, found = jax.lax.scan(step, begin, jax.random.split(key, horizon))
    return Counts(*(x[settle:].sum(axis=0) for x in found))


def expected_steps(ended: int, steps: int, episode_steps: int) -> float:
    """The mean length of an episode that ends early so often: (1 - exp(-f L)) / f.

    Args:
      ended: imagined trajectories whose episode ended.
      steps: steps of all trajectories; f is the quotient.
      episode_steps: L, the time limit.
    """
    if not ended:
        return float(episode_steps)
    rate = ended / steps
    return float(-np.expm1(-rate * episode_steps) / rate)


def episode_share(violations: float, steps: int, episode_steps: float) -> float | None:
    """The share of episodes that violate, given violations per steps; None without steps."""
    return float(_share(violations, steps, np.inf, episode_steps)) if steps else None


def episode_interval(
    violating: int, steps: int, episode_steps: float
) -> tuple[float | None, float | None]:
    """Interval of the share of episodes that violate.

    Violations are counted as a Poisson process, whose exact limits are quantiles of chi-squared
    distributions (Garwood 1936). With no violation seen, the upper limit is 3 in all steps.
    """
    low, high = _poisson_limits(violating)
    return episode_share(low, steps, episode_steps), episode_share(high, steps, episode_steps)


def clustered_share(violating: np.ndarray, steps: np.ndarray, episode_steps: float) -> float | None:
    """The share of episodes that violate if their rates differ; None without steps.

    With rates of mean m and shape k it is 1 - (1 + L m / k)^-k, which for a large k is that of a
    single rate, `episode_share`. The mean is that of all steps, the shape the most likely one.

    Args:
      violating: `[E]` violations in the trajectories from each held-out episode.
      steps: `[E]` their steps.
      episode_steps: L, of a whole episode, on average.
    """
    total, exposed = int(violating.sum()), int(steps.sum())
    if not exposed:
        return None
    return float(_share(total, exposed, _shape(violating, steps), episode_steps))


def clustered_interval(
    violating: np.ndarray, steps: np.ndarray, episode_steps: float, seed: int = 0
) -> tuple[float | None, float | None]:
    """Interval of `clustered_share`, which it contains; (None, None) without steps.

    The union of two: over held-out episodes drawn with replacement, since few layouts were seen,
    and over the exact Poisson limits of the number of violations, as in `episode_interval`.
    """
    total, exposed = int(violating.sum()), int(steps.sum())
    if not exposed:
        return None, None
    counts = np.array([total, *_poisson_limits(total)])
    found = _share(counts, exposed, _shape(violating, steps), episode_steps)
    seen = np.flatnonzero(steps > 0)
    drawn = seen[np.random.default_rng(seed).integers(0, len(seen), (RESAMPLES, len(seen)))]
    # One after the other, since there may be thousands of episodes.
    shares = [
        _share(violating[i].sum(), steps[i].sum(), _shape(violating[i], steps[i]), episode_steps)
        for i in drawn
    ]
    low, high = np.quantile(shares, [1.0 - CONFIDENCE, CONFIDENCE])
    return float(min(low, found.min())), float(max(high, found.max()))


def _share(violations: Any, steps: int, shape: float, episode_steps: float) -> np.ndarray:
    """Shares of episodes that violate, for one or several numbers of violations.

    Args:
      shape: of the gamma distribution of rates; infinite if all episodes have one rate.
    """
    expected = episode_steps * np.asarray(violations) / steps
    free = -expected if np.isinf(shape) else -shape * np.log1p(expected / shape)
    return 1.0 - np.exp(free)


def _shape(violating: np.ndarray, steps: np.ndarray) -> float:
    """The most likely shape of gamma distributed rates whose mean is that of all steps.

    It is infinite, i.e. all have one rate, where nothing shows that they differ.
    """
    if not violating.any():
        return np.inf
    count = violating[:, None].astype(float)
    expected = steps[:, None] * violating.sum() / steps.sum()
    # The log-likelihood of the negative binomial distribution, but for what no shape changes.
    likelihood = gammaln(count + SHAPES) - gammaln(SHAPES) + SHAPES * np.log(SHAPES)
    likelihood = likelihood - (count + SHAPES) * np.log(expected + SHAPES)
    best = int(np.argmax(likelihood.sum(axis=0)))
    return np.inf if best == len(SHAPES) - 1 else float(SHAPES[best])


def _poisson_limits(violating: int) -> tuple[float, float]:
    """Limits of the mean of a Poisson distribution of which this number was seen."""
    low = float(chi2.ppf(1.0 - CONFIDENCE, 2 * violating)) / 2.0 if violating else 0.0
    return low, float(chi2.ppf(CONFIDENCE, 2 * violating + 2)) / 2.0
