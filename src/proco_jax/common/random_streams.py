"""The random streams of a run, each named once.

Every consumer of randomness folds its own stream into the key of a seed, so that no two of them
ever draw the same numbers.
"""

import enum

import jax

from proco_jax.types import Array


class Stream(enum.IntEnum):
    """Consumers of randomness. The numbers are part of a run's results: never reuse one."""

    DYNAMICS = 1
    COST = 2
    EXPLORATION = 3
    COST_UNCERTAINTY = 4
    TRAINING = 5
    EVALUATION = 6
    FORECAST = 7
    COUNTERFACTUALS = 8
    RECOVERY_COUNTERFACTUALS = 9
    AVOIDANCE_ATTEMPTS = 10
    OFFLINE_EVALUATION = 11
    BONUS = 12
    TERMINATION = 13
    IMAGINED_EPISODES = 14


def stream_key(seed: int | Array, stream: Stream) -> jax.Array:
    """The typed key of a stream of one seed."""
    return jax.random.fold_in(jax.random.key(seed), int(stream))


def stream_keys(seed: int, count: int, stream: Stream) -> jax.Array:
    """Typed keys `[count]` of a stream for the seeds `seed, seed + 1, ...`."""
    seeds = jax.numpy.arange(seed, seed + count)
    return jax.vmap(lambda s: stream_key(s, stream))(seeds)


def action_keys(policy_keys: jax.Array, episode_seeds: Array, steps: Array) -> jax.Array:
    """Keys for sampled actions that depend on policy, episode and step alone.

    Args:
      policy_keys: `[S]` typed keys, one a policy.
      episode_seeds: `[S, n]` int.
      steps: `[S, n]` int.

    Returns:
      `[S, n]` keys.
    """

    def one(key: jax.Array, episode_seed: Array, step: Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, episode_seed), step)

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(policy_keys, episode_seeds, steps)
