"""The frontier of trained behavior policies: return and cost by price, in the simulator."""

from collections.abc import Callable
from typing import Any

import numpy as np

from proco_jax.envs.behavior_file import BehaviorPolicies
from proco_jax.envs.behavior_inputs import price_at
from proco_jax.envs.behavior_mixture import Behavior, PolicyMixture
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.vector import VectorEnv

# Shares of the range of prices; None stands for violations that cost nothing.
SHARES = (None, 0.0, 0.25, 0.5, 0.75, 1.0)
FIRST_SEED = 5_000_000


def frontier(
    env: VectorEnv,
    policies: BehaviorPolicies,
    episodes: int,
    log: Callable[[str], None],
    snapshot: int = -1,
) -> list[dict[str, Any]]:
    """Mean return and cost of a snapshot with the noise of its training, one entry a price.

    Args:
      env: worlds of the task.
      policies: of the task.
      episodes: number of episodes for every price.
      log: takes lines of text for the user.
      snapshot: the last one by default.
    """
    found = []
    for share in SHARES:
        price = 0.0 if share is None else float(price_at(policies.prices, share))
        behavior = Behavior(snapshot % policies.snapshots, price, 1.0)
        act = PolicyMixture(env.task, policies, lambda seed, behavior=behavior: behavior)
        run = run_episodes(env, act, range(FIRST_SEED, FIRST_SEED + episodes))
        returns = np.array([episode.reward.sum() for episode in run])
        costs = np.array([episode.cost.sum() for episode in run])
        entry = {
            "price": price,
            "return": float(returns.mean()),
            "cost": float(costs.mean()),
            "violation_free": float(np.mean(costs == 0)),
            "episodes": episodes,
        }
        log(
            f"price {price:.3g}: return {entry['return']:.2f}, cost {entry['cost']:.1f}, "
            f"{entry['violation_free']:.0%} of {episodes} episodes violation-free"
        )
        found.append(entry)
    return found
