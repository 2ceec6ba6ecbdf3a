"""Evaluation without a simulator: what logs and model tell of a policy before it is deployed.

Policies are rolled out in the dynamics model from logged first observations. The model is tried on
held-out episodes beside: one step ahead, over stretches with the logged actions, and over whole
episodes, whose largest margins bound the share of violations (`deployment/violation_bound.py`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.algorithms.base import Previous
from proco_jax.common import sharding
from proco_jax.common.batching import in_blocks, spread
from proco_jax.common.compiler import jit_compile_fast
from proco_jax.common.random_streams import Stream, stream_key
from proco_jax.common.statistics import stratified_bootstrap
from proco_jax.deployment.acting import Deployed, initial_previous, make_actor
from proco_jax.deployment.violation_bound import violation_bound
from proco_jax.deployment.violation_forecast import episode_interval, episode_share
from proco_jax.models import dynamics, object_map
from proco_jax.models.networks import DynamicsNetwork
from proco_jax.observation import ObservationSpec
from proco_jax.training.loop import Program
from proco_jax.types import Array, Episode

FILE = "offline_evaluation.json"
# Probability that a held-out outcome exceeds its shifted forecast, and of the upper limits.
ALPHA, CONFIDENCE = 0.1, 0.95
STEPS_AHEAD = (1, 5, 10, 20, 50)
# One-step intervals of the model are meant to hold this share of the logged changes.
INTERVAL, DEVIATIONS = 0.9, 1.6449
# A number is outside of the support beyond these quantiles of the logs.
SUPPORT = (0.001, 0.999)
MOST_ROWS, MOST_STRETCHES, FIELDS_LISTED = 20_000, 512, 3
CANNOT_TELL = (
    "All of this is computed from the logs and a model that was learned from them. It cannot tell "
    "what happens where the logs have no data, what the observation does not show, or how the "
    "system changes after the logs were recorded: a real trial under supervision stays necessary."
)
NOTHING_HELD_OUT = (
    "No episode is held out from training, so how much the model errs on other episodes is not "
    "known, and nothing better than 100% can be promised: hold some out with "
    "--config.data.holdout_share."
)

# Raw obs `[..., O]` to a margin `[...]`, 0 or above where a state is unsafe.
Margin = Callable[[Array], Array]


class ImaginedEpisodes(NamedTuple):
    """Imagined episodes of S policies, n each, of H steps.

    Attributes:
      reward: `[S, n, H]`, the usual part of the predicted reward.
      margin: `[S, n, H]` of the state that a step leads to.
      known: `[S, n, H]` bool, whether the elites have agreed so far.
      outside: `[S, O]`, known steps to states outside of the logged range, by number observed.
    """

    reward: np.ndarray
    margin: np.ndarray
    known: np.ndarray
    outside: np.ndarray


def imagine_episodes(
    program: Program,
    shield: str,
    deployed: Deployed,
    model: dynamics.Model,
    margin: Margin | None,
    logged_range: tuple[np.ndarray, np.ndarray],
    start: np.ndarray,
    horizon: int,
    seed: int,
) -> ImaginedEpisodes:
    """Rolls policies under a shield out in the model.

    Args:
      margin: None where no knowledge says what is unsafe; margins are then minus infinity.
      logged_range: smallest and largest logged observation, each `[O]`.
      start: `[S, n, O]` raw first observations.
    """
    policies, count, _ = start.shape
    actor = make_actor(program, shield)
    spec = program.dynamics.spec
    low, high = (jnp.asarray(x, jnp.float32) for x in logged_range)

    @jax.jit
    def run(deployed: Deployed, model: dynamics.Model, start: Array, key: Array) -> tuple:
        def step(carry: tuple, step_key: Array) -> tuple:
            state, known, memory, previous = carry
            obs = object_map.observation(spec, state)
            keys = jax.random.split(step_key, (policies, count))
            action, memory = actor.act(deployed, memory, obs, previous, keys, known)
            found = dynamics.predict_mean(program.dynamics, model, state, action)
            finite = jnp.all(jnp.isfinite(found.next_state), axis=-1) & jnp.isfinite(found.reward)
            known = known & finite & (found.disagreement <= model.limit)
            state = jnp.where(known[..., None], found.next_state, state)
            obs = object_map.observation(spec, state)
            reward = jnp.where(known, found.reward, 0.0)
            value = jnp.full(known.shape, -jnp.inf) if margin is None else margin(obs)
            value = jnp.where(jnp.isnan(value), jnp.inf, value)
            beyond = ((obs < low) | (obs > high)) & known[..., None]
            previous = Previous(action, reward, (value >= 0).astype(jnp.float32))
            return (state, known, memory, previous), (reward, value, known, beyond.sum(axis=1))

        begin = (
            object_map.begin(spec, start),
            jnp.ones((policies, count), bool),
            actor.initial_carry(policies, count),
            initial_previous(policies, count, program.task.action_size),
        )
        found = jax.lax.scan(step, begin, jax.random.split(key, horizon))[1]
        reward, value, known, beyond = found
        return *(jnp.moveaxis(x, 0, 2) for x in (reward, value, known)), beyond.sum(axis=0)

    here = sharding.for_acting((deployed, model, jnp.asarray(start, jnp.float32)), policies)
    found = run(*here, stream_key(seed, Stream.OFFLINE_EVALUATION))
    return ImaginedEpisodes(*(np.asarray(x) for x in found))


def policy_report(
    imagined: ImaginedEpisodes,
    spec: ObservationSpec,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    held_out_steps: int,
) -> dict[str, Any]:
    """What imagined episodes say of a policy.

    Args:
      imagined: of all seeds of the policy.
      spec: names of what is observed.
      held_out: largest forecast and largest logged margins `[n]` of held-out episodes; None
        without knowledge.
      held_out_steps: length of these episodes; the bound holds for episodes of that length.

    Returns:
      JSON data, None where nothing can be said.
    """
    known, horizon = imagined.known, imagined.known.shape[2]
    lengths = known.sum(axis=2)
    steps = int(lengths.sum())
    # An episode that is left early counts by its mean reward.
    earned = imagined.reward.sum(axis=2) * horizon / np.maximum(lengths, 1)
    report: dict[str, Any] = {
        "episodes": int(lengths.size),
        "known_steps": float(lengths.mean() / horizon),
        "leaving_support": float((lengths < horizon).mean()),
        "leaves_at_step": float(np.median(lengths[lengths < horizon]))
        if (lengths < horizon).any()
        else None,
        "outside": _outside(imagined.outside, steps, spec),
        "return": None,
    }
    if (lengths > 0).all():
        interval = stratified_bootstrap(earned, np.mean)
        report["return"] = dict(zip(("mean", "low", "high"), map(float, interval), strict=True))
    if held_out is None:
        return report | {"violating_episodes": None, "bound": None}
    bad = (imagined.margin >= 0) & known
    first = np.where(bad.any(axis=2), bad.argmax(axis=2) + 1, lengths)
    violating, exposed = int(bad.any(axis=2).sum()), int(np.minimum(first, lengths).sum())
    low, high = episode_interval(violating, exposed, horizon)
    steps_bound = min(horizon, held_out_steps)
    worst = np.where(known, imagined.margin, -np.inf)[:, :, :steps_bound].max(axis=2)
    # Where the model cannot tell, nothing is promised.
    worst = np.where((lengths < steps_bound) & (worst < 0), np.inf, worst).reshape(-1)
    found = violation_bound(*held_out, worst, ALPHA, CONFIDENCE)
    return report | {
        "violating_episodes": episode_share(violating, exposed, horizon),
        "interval_low": low,
        "interval_high": high,
        "violating": violating,
        "bound": found.bound,
        "flagged": found.flagged,
        "bound_steps": steps_bound,
    }


def forecast_margins(
    net: DynamicsNetwork,
    model: dynamics.Model,
    margin: Margin,
    episodes: Sequence[Episode],
    horizon: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Largest margins of episodes, imagined with their logged actions, and as logged, each `[n]`.

    Episodes count to their end or to the horizon. The model starts from the first observation and
    sees no later one.
    """
    if not episodes:
        return np.zeros(0), np.zeros(0)
    length = min(horizon, max(len(e.reward) for e in episodes))
    count = np.array([min(len(e.reward), length) for e in episodes])
    action = np.stack([_padded(e.action, length) for e in episodes])
    start = np.stack([e.obs[0] for e in episodes])
    within = np.arange(length) < count[:, None]
    guess = np.asarray(margin(dynamics.predict_open_loop(net, model, start, action)))
    guess = np.where(within, np.where(np.isnan(guess), np.inf, guess), -np.inf)
    logged = [
        float(np.max(np.asarray(margin(e.obs[1 : n + 1]))))
        for e, n in zip(episodes, count, strict=True)
    ]
    return guess.max(axis=1), np.array(logged)


def model_report(
    net: DynamicsNetwork,
    model: dynamics.Model,
    episodes: Sequence[Episode],
    names: Sequence[str],
    horizon: int,
) -> dict[str, Any]:
    """How well imagined trajectories agree with held-out logged ones.

    Args:
      names: of the numbers of an observation, `[O]`.
      horizon: longest stretch.

    Returns:
      JSON data; without episodes, that nothing is known. `one_step` holds, for each number, the
      share of logged changes inside of the model's 90% interval; `stretches`, for numbers of steps
      ahead, the mean absolute error as a share of that of a forecast without change, in the mean
      over the numbers that change.
    """
    if not episodes:
        return {"held_out_episodes": 0, "unknown": NOTHING_HELD_OUT}
    obs = np.concatenate([e.obs[:-1] for e in episodes])
    next_obs = np.concatenate([e.obs[1:] for e in episodes])
    action = np.concatenate([e.action for e in episodes])
    rows = spread(len(obs), MOST_ROWS)
    varies = np.asarray(model.targets.varies)[: obs.shape[1]] > 0

    @jit_compile_fast
    def one(model: dynamics.Model, o: Array, a: Array) -> Array:
        found = dynamics.predict_elites(net, model, object_map.begin(net.spec, o), a)
        mean = found.next_obs.mean(axis=0)
        spread_ = jnp.square(found.deviation[..., : o.shape[-1]]).mean(0)
        return jnp.stack([mean, jnp.sqrt(spread_ + found.next_obs.var(axis=0))], axis=1)

    found = in_blocks(lambda o, a: one(model, o, a), obs[rows], action[rows])
    mean, deviation = np.moveaxis(found, 1, 0)
    inside = np.abs(next_obs[rows] - mean) <= DEVIATIONS * np.maximum(deviation, 1e-12)
    one_step = {name: float(inside[:, i].mean()) for i, name in enumerate(names) if varies[i]}
    return {
        "held_out_episodes": len(episodes),
        "stated": INTERVAL,
        "one_step": one_step,
        "stretches": _stretches(net, model, episodes, varies, horizon),
    }


def _stretches(
    net: DynamicsNetwork,
    model: dynamics.Model,
    episodes: Sequence[Episode],
    varies: np.ndarray,
    horizon: int,
) -> list[dict[str, Any]]:
    rows, lengths = [], [n for n in STEPS_AHEAD if n <= horizon]
    for ahead in lengths:
        starts = [(e, t) for e in episodes for t in range(0, len(e.reward) - ahead + 1)]
        starts = [starts[i] for i in spread(len(starts), MOST_STRETCHES)]
        if not starts:
            continue
        obs = np.stack([e.obs[t] for e, t in starts])
        true = np.stack([e.obs[t + ahead] for e, t in starts])
        # Always as many steps, so that one compiled program serves all lengths.
        action = np.stack([_padded(e.action[t : t + ahead], lengths[-1]) for e, t in starts])
        guess = in_blocks(functools.partial(dynamics.predict_open_loop, net, model), obs, action)
        guess = guess[:, ahead - 1]
        error = np.abs(guess - true).mean(axis=0)[varies]
        still = np.abs(obs - true).mean(axis=0)[varies]
        # What never changes in the held-out episodes has no such share.
        share = error[still > 0] / still[still > 0]
        if len(share):
            rows.append({"steps": ahead, "stretches": len(starts), "error": float(share.mean())})
    return rows


def _padded(action: np.ndarray, length: int) -> np.ndarray:
    """The first actions `[length, A]`, the last one repeated."""
    return action[np.minimum(np.arange(length), len(action) - 1)]


def _outside(counts: np.ndarray, steps: int, spec: ObservationSpec) -> dict[str, float]:
    """The fields that most often leave their logged range, with their share of steps."""
    if not steps:
        return {}
    total = counts.sum(axis=0)
    shares = {
        f.name: float(total[spec.slices[f.name]].max() / steps)
        for f in spec.fields
        if total[spec.slices[f.name]].any()
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1])[:FIELDS_LISTED])
