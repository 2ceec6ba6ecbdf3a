"""Acting: the policies of several members, each under a shield, in many states at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.algorithms.base import Previous
from proco_jax.common import sharding
from proco_jax.deployment.planner import Continuation
from proco_jax.deployment.shield import ShieldState, make_shield
from proco_jax.models.normalizer import Normalizer
from proco_jax.training.loop import Program, no_previous
from proco_jax.types import Array

# Folded into the key of a step for what a shield imagines.
AHEAD = 2**31 - 1


class Deployed(NamedTuple):
    """Everything that S deployed policies are made of; arrays only.

    Attributes:
      algorithm: states of the algorithm, leaves `[S, ...]`.
      hyper: its hyperparameters, leaves `[S]`.
      normalizer: of observations.
      shield: None where no shield can be worn; its critics have leaves `[S, ...]`.
    """

    algorithm: Any
    hyper: Any
    normalizer: Normalizer
    shield: ShieldState | None


def count_policies(deployed: Deployed) -> int:
    """The number of deployed policies, S."""
    return jax.tree.leaves(deployed.algorithm)[0].shape[0]


def member(deployed: Deployed, index: int) -> Deployed:
    """One of S deployed policies, with leaves `[1, ...]` in place of `[S, ...]`."""

    def only(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[index : index + 1], tree)

    guard = deployed.shield
    return deployed._replace(
        algorithm=only(deployed.algorithm),
        hyper=only(deployed.hyper),
        shield=None if guard is None else guard._replace(critics=only(guard.critics)),
    )


class Actor(NamedTuple):
    """How deployed policies act.

    Attributes:
      initial_carry: (S, n) to the policies' memory at the start of n episodes each.
      act: (deployed, carry, obs `[S, n, O]` raw, previous with leaves `[S, n, ...]`, keys `[S, n]`,
        active `[S, n]` bool) to (actions `[S, n, A]`, carry).
      decide: as `act`, to (actions, the actions `[S, n, A]` of the policy without its shield,
        carry).
    """

    initial_carry: Callable[[int, int], Any]
    act: Callable[[Deployed, Any, Array, Previous, Array, Array], tuple[Array, Any]]
    decide: Callable[[Deployed, Any, Array, Previous, Array, Array], tuple[Array, Array, Any]]


def make_actor(program: Program, shield_name: str) -> Actor:
    """The actor of a program's policies under a shield."""
    algorithm = program.algorithm
    shield = make_shield(
        shield_name,
        program.config,
        program.dynamics,
        program.cost,
        program.feasibility,
        program.task.action_size,
    )

    sample_actions = algorithm.sample_actions if shield.samples else None

    def propose(
        hyper: Any, state: Any, key: Array, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        if sample_actions is None:
            action, after = algorithm.act(key, hyper, state, carry, obs, previous)
            return action[None], after
        if not shield.own:
            return sample_actions(key, hyper, state, carry, obs, previous, shield.samples)
        own_key, key = jax.random.split(key)
        action, after = algorithm.act(own_key, hyper, state, carry, obs, previous)
        more, _ = sample_actions(key, hyper, state, carry, obs, previous, shield.samples)
        return jnp.concatenate([action[None], more]), after

    def one(
        state: Any,
        hyper: Any,
        guard: Any,
        normalizer: Normalizer,
        carry: Any,
        obs: Array,
        previous: Previous,
        keys: Array,
        active: Array,
    ) -> tuple[Array, Array, Any]:
        # Before the keys are used for the proposals.
        ahead = jax.random.key_data(jax.vmap(jax.random.fold_in, (0, None))(keys, AHEAD))
        rows = jax.vmap(propose, in_axes=(None, None, 0, 0, 0, 0))
        proposals, carry = rows(hyper, state, keys, carry, normalizer(obs), previous)

        def go_on(key: Array, carry: Any, obs: Array, previous: Previous) -> tuple[Array, Any]:
            return algorithm.act(key, hyper, state, carry, normalizer(obs), previous)

        policy = Continuation(go_on, carry, ahead)
        return shield.act(guard, obs, proposals, active, policy), proposals[:, 0], carry

    def decide(
        deployed: Deployed, carry: Any, obs: Array, previous: Previous, keys: Array, active: Array
    ) -> tuple[Array, Array, Any]:
        guard = deployed.shield
        if shield_name != "none" and guard is None:
            raise ValueError(f"shield {shield_name!r}: these policies have no feasibility critics")
        critics = None if guard is None else guard.critics
        shared = None if guard is None else guard._replace(critics=None), deployed.normalizer
        own = (deployed.algorithm, deployed.hyper, critics, carry, obs, previous, keys, active)

        def policy(shared: tuple, own: tuple) -> tuple[Array, Array, Any]:
            guard, normalizer = shared
            state, hyper, critics, *rest = own
            guard = None if guard is None else guard._replace(critics=critics)
            return one(state, hyper, guard, normalizer, *rest)

        # On CPUs one after another: side by side, every policy would search for as many rows as the
        # one that needs the most searches.
        return sharding.over_all_members(policy, shared, own)

    def act(
        deployed: Deployed, carry: Any, obs: Array, previous: Previous, keys: Array, active: Array
    ) -> tuple[Array, Any]:
        action, _, carry = decide(deployed, carry, obs, previous, keys, active)
        return action, carry

    def initial_carry(policies: int, count: int) -> Any:
        carry = algorithm.initial_carry()
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (policies, count, *jnp.shape(x))), carry)

    return Actor(initial_carry, act, decide)


def initial_previous(policies: int, count: int, action_size: int) -> Previous:
    """What n episodes of each policy have at their start, leaves `[S, n, ...]`."""
    return jax.tree.map(
        lambda x: jnp.broadcast_to(x, (policies, count, *x.shape)), no_previous(action_size)
    )
