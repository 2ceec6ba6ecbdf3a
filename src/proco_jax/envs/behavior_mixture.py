"""Records with trained behavior policies: another price, snapshot and noise for every episode."""

import dataclasses
from collections.abc import Callable

import numpy as np

from proco_jax.config.schema import CollectConfig
from proco_jax.envs.behavior_file import BehaviorPolicies
from proco_jax.envs.behavior_inputs import (
    PRICE_INPUTS,
    drawn_price,
    policy_inputs,
    price_input,
)
from proco_jax.envs.tasks import Task

# Share of the range of prices, on its logarithmic scale, that recorded episodes have. The highest
# prices drive the learning of caution, but robots then flee from all that may cost.
RECORDED_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Behavior:
    """What acts in one episode.

    Attributes:
      snapshot: index among those of the file.
      price: of a violation.
      noise: standard deviation of the actions, as a share of the policy's own.
    """

    snapshot: int
    price: float
    noise: float


def recorded_mixture(
    task: Task, policies: BehaviorPolicies, collect: CollectConfig
) -> "PolicyMixture":
    """The mixture with which logs are recorded, see `draw_behavior`."""
    return PolicyMixture(task, policies, lambda seed: draw_behavior(policies, collect, seed))


def draw_behavior(policies: BehaviorPolicies, collect: CollectConfig, seed: int) -> Behavior:
    """The behavior of an episode: the same for the same file, settings and seed.

    Half of the episodes are by the last snapshot, the others by any of the earlier ones. Prices are
    log-uniform, and a share of the episodes ignores violations, as in training, but the highest
    prices are left out.
    """
    rng = np.random.default_rng([seed, 2])
    last = policies.snapshots - 1
    trained, free, share = rng.random(3)
    earlier = int(rng.integers(max(last, 1)))
    low, high = collect.policy_noise
    return Behavior(
        snapshot=last if trained < 0.5 else earlier,
        price=float(drawn_price(policies.prices, RECORDED_SHARE * share, free)),
        noise=float(rng.uniform(low, high)),
    )


class PolicyMixture:
    """An `act` for `run_episodes` with a behavior for every episode.

    Args:
      task: whose policies these are.
      policies: read from a file.
      draw: the behavior of the episode of a seed.
    """

    def __init__(
        self, task: Task, policies: BehaviorPolicies, draw: Callable[[int], Behavior]
    ) -> None:
        self._task, self._policies, self._behavior = task, policies, draw
        self._size(0)

    def __call__(self, obs: np.ndarray, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Actions `[N, A]` in [-1, 1] for `obs [N, O]`, `seeds [N]`, `steps [N]`."""
        if len(seeds) != len(self._seeds):
            self._size(len(seeds))
        changed = np.flatnonzero(self._seeds != seeds)
        for row in changed:
            self._draw(int(row), int(seeds[row]))
        if len(changed):
            self._rows = self._policies.rows(self._snapshot)
        mean = self._rows.means(policy_inputs(self._task, obs), self._price)
        noise = self._noise[np.arange(len(seeds)), np.minimum(steps, self._noise.shape[1] - 1)]
        return np.clip(mean + noise, -1.0, 1.0).astype(np.float32)

    def _size(self, count: int) -> None:
        task = self._task
        self._seeds = np.full(count, -1, np.int64)
        self._snapshot = np.zeros(count, np.intp)
        self._price = np.zeros((count, PRICE_INPUTS), np.float32)
        self._noise = np.zeros((count, task.episode_steps, task.action_size), np.float32)
        self._rows = self._policies.rows(self._snapshot)

    def _draw(self, row: int, seed: int) -> None:
        task = self._task
        behavior = self._behavior(seed)
        self._seeds[row] = seed
        self._snapshot[row] = behavior.snapshot
        price = price_input(self._policies.prices, np.float64(behavior.price))
        self._price[row] = price
        std = behavior.noise * np.exp(price @ self._policies.log_std[behavior.snapshot])
        shape = (task.episode_steps, task.action_size)
        self._noise[row] = std * np.random.default_rng([seed, 3]).normal(size=shape)
