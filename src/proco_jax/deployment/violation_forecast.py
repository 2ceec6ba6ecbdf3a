"""How often a deployed policy is going to violate, foreseen by the model alone.

Policies are led through the fitted dynamics from held-out logged states, as
they would be led through the world: with the choice among their actions, and
the ways out. The rule, not widened, says what violates. A trajectory counts as
long as the elites agree, and until it violates, but not from the start: a log
went on from there without a violation. Violations a step tell the share
of whole episodes that violate. No simulator and no true cost is asked, so this
may be read, and a bound on Q_h chosen by it, before anything is deployed.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.algorithms.proco import AgentState
from proco_jax.config.schema import Config
from proco_jax.deployment import shield as acting
from proco_jax.models import dynamics
from proco_jax.models.normalizer import Scale
from proco_jax.training.loop import Parts
from proco_jax.types import Array

FILE = "foreseen.json"
ROWS = "bounds on Q_h"
# How far a policy is followed, from which step on it counts, and what may count as feasible
# (`agent.feasible_up_to` and `agent.escape_above`) beside what the config says.
HORIZON = 125
SETTLE = 25
BOUNDS = ((2.0, 2.0), (4.0, 4.0), (6.0, 6.0))


class Foreseen(NamedTuple):
    """What n imagined trajectories of each of S policies came to.

    Attributes:
      violating: `[S]` how many violate within reach, once they have settled.
      steps: `[S]` how many steps they took then within reach, until they violated.
    """

    violating: Array
    steps: Array


def foresee(
    parts: Parts,
    scale: Scale,
    model: dynamics.Model,
    agents: AgentState,
    unsafe: Callable[[Array], Array],
    start: Array,
    horizon: int,
    settle: int,
    key: Array,
) -> Foreseen:
    """Follows deployed policies through the model.

    Args:
      model: leaves have a leading axis S with `dynamics.per_seed`.
      agents: leaves have a leading axis S.
      unsafe: raw obs `[..., O]` to `[...]` bool.
      start: `[S, n, O]` raw.
      horizon: steps.
      settle: how many of them do not count.
      key: typed key.
    """
    seeds, count, _ = start.shape
    axes = (0 if parts.config.dynamics.per_seed else None, 0, 0)
    predict = jax.vmap(lambda m, o, a: dynamics.predict_mean(parts.dynamics, m, o, a), axes)
    limit = jnp.broadcast_to(jnp.asarray(model.limit), (seeds,))[:, None]

    def step(carry: tuple[Array, Array], step_key: Array) -> tuple:
        obs, alive = carry
        keys = jax.random.split(step_key, (seeds, count))
        action = acting.act(parts, scale, model, agents, obs, keys, alive)
        next_obs, disagreement = predict(model, obs, action)
        known = jnp.all(jnp.isfinite(next_obs), axis=-1) & (disagreement <= limit)
        alive = alive & known
        next_obs = jnp.where(known[..., None], next_obs, obs)
        bad = alive & unsafe(next_obs)
        return (next_obs, alive & ~bad), (bad.sum(axis=1), alive.sum(axis=1))

    begin = (jnp.asarray(start), jnp.ones((seeds, count), bool))
    _, (violating, steps) = jax.lax.scan(step, begin, jax.random.split(key, horizon))
    return Foreseen(violating[settle:].sum(axis=0), steps[settle:].sum(axis=0))


def table(
    parts: Parts,
    scale: Scale,
    model: dynamics.Model,
    agents: AgentState,
    unsafe: Callable[[Array], Array],
    obs: np.ndarray,
    count: int,
    episode_steps: int,
) -> list[dict[str, Any]]:
    """What is foreseen with the config's bounds on Q_h, and with others.

    Args:
      obs: `[M, O]` logged states to start from.
      count: starts of each policy.
      episode_steps: for how long a policy is going to be deployed.
    """
    config = parts.config
    seeds = jax.tree.leaves(agents)[0].shape[0]
    drawn = np.random.default_rng(config.seed).integers(0, len(obs), (seeds, count))

    @jax.jit
    def run(
        scale: Scale, model: dynamics.Model, agents: AgentState, start: Array, bounds: Array
    ) -> Foreseen:
        own = parts._replace(config=with_bounds(config, bounds[0], bounds[1]))
        key = jax.random.key(config.seed)
        return foresee(own, scale, model, agents, unsafe, start, HORIZON, SETTLE, key)

    # Training may have spread them over devices.
    here = jax.device_put((scale, model, agents, obs[drawn]), jax.local_devices()[0])
    own = (config.agent.feasible_up_to, config.agent.escape_above)
    rows = []
    for bounds in dict.fromkeys((own, *BOUNDS)):
        found = run(*here, jnp.asarray(bounds, jnp.float32))
        violating, steps = int(found.violating.sum()), int(found.steps.sum())
        rows.append(
            {
                "feasible_up_to": bounds[0],
                "escape_above": bounds[1],
                "violating_episodes": episode_share(violating, steps, episode_steps),
                "with_one_more": episode_share(violating + 1, steps, episode_steps),
                "violating": violating,
                "trajectories": seeds * count,
                "steps": steps,
            }
        )
    deployed = choose(rows, config.agent.risk)
    return [{**row, "deployed": row is deployed} for row in rows]


def choose(rows: Sequence[Mapping[str, Any]], risk: float) -> Mapping[str, Any]:
    """The boldest bounds within the risk that only such are more careful than.

    Args:
      rows: of `table`, the config's own bounds first.
      risk: share of episodes that may violate; 0 takes the config's own bounds. Where
        no bounds are within it, the most careful are taken.
    """
    if risk <= 0:
        return rows[0]
    ordered = sorted(rows, key=lambda row: (row["feasible_up_to"], row["escape_above"]))
    chosen = ordered[0]
    for row in ordered:
        if not within(row, risk):
            break
        chosen = row
    return chosen


def within(row: Mapping[str, Any], risk: float) -> bool:
    """Whether no more than this share of episodes is foreseen to violate.

    Even if one more had violated: what was hardly looked at is no ground for boldness.
    """
    share = row["with_one_more"]
    return share is not None and share <= risk


def with_bounds(config: Config, feasible_up_to: Array, escape_above: Array) -> Config:
    """A copy of a config with these bounds on Q_h."""
    agent = dataclasses.replace(
        config.agent, feasible_up_to=feasible_up_to, escape_above=escape_above
    )
    return dataclasses.replace(config, agent=agent)


def episode_share(violating: int, steps: int, episode_steps: int) -> float | None:
    """The share of episodes that violate at so many violations in so many steps; None without."""
    return 1.0 - float(np.exp(-episode_steps * violating / steps)) if steps else None
