"""Shields: what guards a policy at deployment, whatever algorithm and augmentation trained it.

    none      the policy's own action
    filter    of several actions of the policy, the first whose Q_h is within a threshold, or the
              one with the least Q_h if none is
    planner   the policy's own action as long as the model says that the policy's continuation stays
              feasible and does not earn too little; else the first action of a sequence that stays
              feasible, of several the one with the most predicted reward (`planner.py`)

The filter takes neither the feasible action with the best Q_r nor the mode of the policy: robots
saturate at a small part of the action's range, so the noise of the actions sets their speed, and a
deterministic choice drives much faster than anything in the logs. FISOR takes the least Q_h always,
which freezes a robot.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.algorithms import feasibility
from proco_jax.config.schema import Config
from proco_jax.deployment.planner import (
    ACCELERATOR_BLOCK,
    CPU_BLOCK,
    Continuation,
    Judged,
    PlanningModel,
    best,
    for_needed_rows,
    is_better,
    is_feasible,
    judge_plans,
    judge_policy,
    make_plans,
    persistent_noise,
)
from proco_jax.models import dynamics, object_map
from proco_jax.models.cost import CostModel, unsafe
from proco_jax.models.networks import Critic, DynamicsNetwork
from proco_jax.rules.rule import Rule, voted_margin
from proco_jax.types import Array

# Incremented when a shield chooses other actions from the same state; results depend on it.
SHIELD_VERSION = 11
# The depth of a state of which a rule cannot tell, finite so that sums remain comparable, and that
# of one on the boundary.
UNKNOWN_DEPTH, LEAST_DEPTH = 1e30, 1e-6


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Judge:
    """The rules of the knowledge, as the planner reads them; a constant of compiled programs.

    Attributes:
      rules: that vote.
      widening: of each rule, in its own unit.
    """

    rules: tuple[Rule, ...]
    widening: float

    def depth(self, obs: Array) -> jax.Array:
        """How deep states `[..., O]` are in the set that half of the rules or more call unsafe.

        0 outside, else positive, in the unit of the rules. A rule that cannot tell votes unsafe.
        """
        depth = voted_margin(self.rules, obs) + self.widening
        # Its boundary belongs to the set.
        return jnp.where(depth >= 0.0, jnp.clip(depth, LEAST_DEPTH, UNKNOWN_DEPTH), 0.0)


class ShieldState(NamedTuple):
    """What a shield knows; saved with the policy.

    Attributes:
      critics: parameters `{"q", "v"}` of the feasibility critics.
      dynamics: the fitted model; its normalizer is that of the observations.
      qh_threshold: the largest Q_h of an action that the filter accepts.
      planner_threshold: the largest V_h of the states to which the planner lets a sequence lead.
      least_reward: what the policy's own continuation must be predicted to earn, without rare
        bonuses, or the planner searches for more; ANY_REWARD where it never does for that alone.
      cost: the fitted cost network; None without knowledge.
      judge: the rules of the knowledge; None without rules.
    """

    critics: Any
    dynamics: dynamics.Model
    qh_threshold: Array
    planner_threshold: Array
    least_reward: Array
    cost: CostModel | None = None
    judge: Judge | None = None


class Shield(NamedTuple):
    """A shield, as a pure function for the rows of one policy.

    Attributes:
      name: `none`, `filter` or `planner`.
      own: whether the policy's own action is the first of the proposals.
      samples: further actions that it asks of the policy.
      act: (state, obs `[n, O]` raw, proposed actions `[n, P, A]`, active `[n]` bool, how the policy
        goes on) to actions `[n, A]`. Rows that are not active may get any action.
    """

    name: str
    own: bool
    samples: int
    act: Callable[[ShieldState, Array, Array, Array, Continuation], Array]


def make_shield(
    name: str,
    config: Config,
    dynamics_net: DynamicsNetwork,
    cost_net: Critic,
    critic_nets: feasibility.Networks,
    action_size: int,
) -> Shield:
    """The shield of a name.

    Raises:
      ValueError: on a name other than `none`, `filter` and `planner`.
    """
    if name not in ("none", "filter", "planner"):
        raise ValueError(f"shield: found {name!r}, expected none, filter or planner")
    settings = config.shield
    if name == "none":
        return Shield(name, True, 0, lambda state, obs, proposals, active, policy: proposals[:, 0])
    if name == "filter":
        return Shield(
            name,
            False,
            settings.samples,
            lambda state, obs, proposals, active, policy: filter_actions(
                critic_nets, state, obs, proposals
            )[0],
        )
    planner = make_planner(config, dynamics_net, cost_net, critic_nets, action_size)
    return Shield(name, True, settings.planner_variations, planner)


def make_planner(
    config: Config,
    dynamics_net: DynamicsNetwork,
    cost_net: Critic,
    critic_nets: feasibility.Networks,
    action_size: int,
) -> Callable[[ShieldState, Array, Array, Array, Continuation], Array]:
    """`Shield.act` of the planner.

    The first proposal is the policy's own action, the others begin its varied continuations. Where
    the policy's own continuation suffices, only that is followed.
    """
    settings, persistence = config.shield, config.rollouts.persistence
    horizon, variations = settings.planner_horizon, settings.planner_variations
    block = settings.planner_block or (
        CPU_BLOCK if jax.default_backend() == "cpu" else ACCELERATOR_BLOCK
    )

    def act(
        state: ShieldState, obs: Array, proposals: Array, active: Array, policy: Continuation
    ) -> jax.Array:
        model = _planning_model(config, dynamics_net, cost_net, critic_nets, state)
        plans = make_plans(horizon, settings.planner_candidates, action_size, persistence)
        own = proposals[:, 0]
        # A policy that cannot be sampled proposes one action.
        begins = jnp.broadcast_to(proposals[:, -variations:], (len(obs), variations, action_size))

        def followed(row: tuple) -> Judged:
            start, action, carry, data = row
            key = jax.random.split(jax.random.wrap_key_data(data))[0]
            calm = jnp.zeros((horizon - 1, 1, action_size))
            judged = judge_policy(model, policy.act, start, carry, action[None], calm, key)
            return jax.tree.map(lambda x: x[0], judged)

        def varied(row: tuple) -> tuple[Judged, jax.Array]:
            start, first, carry, data = row
            key = jax.random.split(jax.random.wrap_key_data(data))[1]
            noise_key, act_key = jax.random.split(key)
            noise = persistent_noise(noise_key, (horizon, variations, action_size), persistence)
            noise = settings.planner_noise * noise
            first = jnp.clip(first + noise[0], -1.0, 1.0)
            return _choice(
                judge_policy(model, policy.act, start, carry, first, noise[1:], act_key), first
            )

        def random(start: Array) -> tuple[Judged, jax.Array]:
            return _choice(judge_plans(model, plans, start), plans[0])

        memory = (policy.carry, policy.key_data)
        held, chosen = jax.vmap(followed)((obs, own, *memory)), own
        # Where the policy is unsafe, what resembles it comes first: the model knows it better.
        earns_little = is_feasible(held) & (held.reward < state.least_reward)
        for search, inputs in ((varied, (obs, begins, *memory)), (random, obs)):
            needed = (~is_feasible(held) | earns_little) & active
            found, action = for_needed_rows(search, inputs, needed, block)
            better = needed & is_better(found, held)
            held = jax.tree.map(functools.partial(jnp.where, better), found, held)
            chosen = jnp.where(better[:, None], action, chosen)
        return chosen

    return act


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


def _planning_model(
    config: Config,
    dynamics_net: DynamicsNetwork,
    cost_net: Critic,
    critic_nets: feasibility.Networks,
    state: ShieldState,
) -> PlanningModel:
    model = state.dynamics

    def step(imagined: Array, action: Array) -> tuple[Array, Array]:
        # One elite: a sequence is compared with others, which all share its error.
        found = dynamics.predict(dynamics_net, model, jnp.int32(0), imagined, action)
        # A network may predict any reward far from the logs.
        return found.next_state, jnp.clip(found.reward, *model.targets.usual)

    def excess(obs: Array) -> jax.Array:
        value = feasibility.vh(critic_nets, state.critics, model.normalizer(obs))
        if state.cost is not None and state.judge is None:
            # V_h is at least h by definition, which fitted critics may not know of a state.
            known = unsafe(cost_net, state.cost, obs)
            value = jnp.where(known, jnp.maximum(value, config.feasibility.unsafe), value)
        return jnp.maximum(value - state.planner_threshold, 0.0)

    return PlanningModel(
        step,
        excess,
        depth=None if state.judge is None else state.judge.depth,
        begin=functools.partial(object_map.begin, dynamics_net.spec),
        observe=functools.partial(object_map.observation, dynamics_net.spec),
    )


def _choice(judged: Judged, actions: Array) -> tuple[Judged, jax.Array]:
    """The best of sequences that begin with actions `[C, A]`, and its action."""
    index = best(judged)
    return jax.tree.map(lambda x: x[index], judged), actions[index]
