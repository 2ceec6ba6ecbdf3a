"""Shields: what guards a policy at deployment, whatever algorithm and augmentation trained it.

    none      the policy's own action
    filter    of several actions of the policy, the first whose Q_h is within the threshold, or the
              one with the least Q_h if none is
    planner   the filter, but where even the least Q_h exceeds a second threshold, the first action
              of a plan found in the learned model (`planner.py`)

The filter takes neither the feasible action with the best Q_r nor the mode of the policy: robots
saturate at a small part of the action's range, so the noise of the actions sets their speed, and a
deterministic choice drives much faster than anything in the logs. FISOR takes the least Q_h always,
which freezes a robot.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.algorithms import feasibility
from proco_jax.config.schema import Config
from proco_jax.deployment.planner import (
    ACCELERATOR_BLOCK,
    CPU_BLOCK,
    best_first_action,
    for_needed_rows,
    make_plans,
)
from proco_jax.models import dynamics
from proco_jax.models.networks import DynamicsNetwork
from proco_jax.types import Array


class ShieldState(NamedTuple):
    """What a shield knows; saved with the policy.

    Attributes:
      critics: parameters `{"q", "v"}` of the feasibility critics.
      dynamics: the fitted model; its normalizer is that of the observations.
      qh_threshold: the largest Q_h of an action that the filter accepts.
      planner_threshold: the planner acts where the least Q_h of the actions exceeds it.
    """

    critics: Any
    dynamics: dynamics.Model
    qh_threshold: Array
    planner_threshold: Array


class Shield(NamedTuple):
    """A shield, as a pure function for the rows of one policy.

    Attributes:
      name: `none`, `filter` or `planner`.
      samples: actions that it asks of the policy; 0 for the policy's own action.
      act: (state, obs `[n, O]` raw, proposed actions `[n, P, A]`, active `[n]` bool) to actions
        `[n, A]`. Rows that are not active may get any action.
    """

    name: str
    samples: int
    act: Callable[[ShieldState, Array, Array, Array], Array]


# Axes of a `ShieldState` that a policy of its own has: critics differ, the model is shared.
POLICY_AXES = ShieldState(0, None, None, None)  # pyright: ignore


def make_shield(
    name: str,
    config: Config,
    dynamics_net: DynamicsNetwork,
    critic_nets: feasibility.Networks,
    action_size: int,
) -> Shield:
    """The shield of a name.

    Raises:
      ValueError: on a name other than `none`, `filter` and `planner`.
    """
    if name not in ("none", "filter", "planner"):
        raise ValueError(f"shield: found {name!r}, expected none, filter or planner")
    if name == "none":
        return Shield(name, 0, lambda state, obs, proposals, active: proposals[:, 0])

    def choose(state: ShieldState, obs: Array, proposals: Array) -> tuple[Array, Array]:
        return filter_actions(critic_nets, state, obs, proposals)

    if name == "filter":
        return Shield(
            name,
            config.shield.samples,
            lambda state, obs, proposals, active: choose(state, obs, proposals)[0],
        )
    block = config.shield.planner_block or (
        CPU_BLOCK if jax.default_backend() == "cpu" else ACCELERATOR_BLOCK
    )
    settings, persistence = config.shield, config.rollouts.persistence

    def act(state: ShieldState, obs: Array, proposals: Array, active: Array) -> jax.Array:
        chosen, least = choose(state, obs, proposals)
        plans = make_plans(
            settings.planner_horizon, settings.planner_candidates, action_size, persistence
        )
        needed = (least > state.planner_threshold) & active
        planned = for_needed_rows(
            lambda row: best_first_action(
                # One elite: a plan is compared with others, which all share its error.
                lambda o, a: (
                    dynamics.predict(dynamics_net, state.dynamics, jnp.int32(0), o, a).next_obs
                ),
                lambda o: feasibility.vh(critic_nets, state.critics, state.dynamics.normalizer(o)),
                plans,
                row,
            ),
            obs,
            needed,
            block,
        )
        return jnp.where(needed[:, None], planned, chosen)

    return Shield(name, settings.samples, act)


def filter_actions(
    nets: feasibility.Networks, state: ShieldState, obs: Array, proposals: Array
) -> tuple[jax.Array, jax.Array]:
    """The filter's choice among proposed actions, and the least Q_h of them.

    Args:
      obs: `[n, O]` raw.
      proposals: `[n, P, A]`.

    Returns:
      Actions `[n, A]` and Q_h `[n]`.
    """
    normalized = state.dynamics.normalizer(obs)
    many = jnp.broadcast_to(normalized[:, None], (*proposals.shape[:2], normalized.shape[-1]))
    qh = feasibility.qh(nets, state.critics, many, proposals)
    feasible = qh <= state.qh_threshold
    index = jnp.where(feasible.any(axis=1), jnp.argmax(feasible, axis=1), jnp.argmin(qh, axis=1))
    chosen = jnp.take_along_axis(proposals, index[:, None, None], axis=1)[:, 0]
    return chosen, jnp.min(qh, axis=1)
