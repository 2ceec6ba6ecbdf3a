"""The compiled second phase of a training: the policy's improvement in imagination.

For each member, `interval`: a number of updates of the improvement (`algorithms/imagination.py`),
then a refresh of the augmentation with the policy that would be deployed now, and some gradient
steps of the feasibility critics on fresh batches, so that the critics of a shield know the states
to which that policy leads. As in `loop.py`, large arrays are arguments, and every random draw
derives its key by folding the number of updates into the member's key, so a resumed run equals an
uninterrupted one bit for bit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from proco_jax.algorithms import feasibility, imagination
from proco_jax.algorithms.base import Actor, Metrics
from proco_jax.augmentation.base import Context
from proco_jax.common import sharding
from proco_jax.training import loop
from proco_jax.training.loop import Program, TrainState
from proco_jax.training.sampling import draw_transitions
from proco_jax.types import Array

# Purposes of the keys that an interval derives.
_INIT, _UPDATE, _REFRESH, _CRITICS = range(4)


class Hyper(NamedTuple):
    """The hyperparameters of a member, scalars, or with a leading axis `[M]` those of all members.

    Attributes:
      training: those of the first phase, of which algorithm, augmentation and critics go on.
      imagination: of the improvement.
    """

    training: loop.Hyper
    imagination: imagination.Hyper


@struct.dataclass
class ImprovementState:
    """The second phase of a member.

    Attributes:
      train: the first phase as it ended, with critics and augmentation as they are now. Its policy
        is that of the regression, see `improved`.
      imagination: the improvement, and the policy as it is now.
    """

    train: TrainState
    imagination: imagination.State


class Improvement(NamedTuple):
    """The compiled functions of the second phase; states have a leading axis `[M]` of members.

    Attributes:
      init: context, hyperparameters and the first phase's last states to fresh states.
      chunk: context, hyperparameters, states and a number of updates, at most `interval`, to states
        and metrics `[M]`. The states are donated.
      compiled: the program behind `chunk`.
    """

    init: Callable[[Context, Hyper, TrainState], ImprovementState]
    chunk: Callable[[Context, Hyper, ImprovementState, int], tuple[ImprovementState, Metrics]]
    compiled: Any


def improves(program: Program) -> bool:
    """Whether there is a second phase: a policy, a world, and updates to make."""
    return (
        program.algorithm.actor is not None
        and program.augmentation.world is not None
        and program.config.proco.imagination.updates > 0
    )


def make_hyper(program: Program, members: int) -> Hyper:
    """The hyperparameters of the config, the same for all members: leaves `[M]`."""
    own = imagination.make_hyper(program.config.proco.imagination)
    own = jax.tree.map(lambda x: jnp.broadcast_to(x, (members,)), own)
    return Hyper(loop.make_hyper(program, members), own)


def make_improvement(program: Program, members: int | None = None) -> Improvement:
    """The compiled functions of a program.

    Args:
      members: how many of the states' rows are trained; further ones, which fill up devices, may
        be left as they are. None for all.
    """
    config, augmentation, actor = program.config, program.augmentation, _actor(program)
    settings = config.proco.imagination
    nets = imagination.make_networks(config, program.task, actor.net)
    assert augmentation.world is not None
    make_world = augmentation.world

    def init(context: Context, hyper: Hyper, train: TrainState) -> ImprovementState:
        key = jax.random.fold_in(_phase_key(train), _INIT)
        # States are donated, so the policy must not be that of the regression in memory.
        policy = jax.tree.map(jnp.copy, actor.params(train.algorithm))
        world = make_world(context, settings.elites)
        begun = imagination.init(settings, hyper.imagination, nets, world, policy, key)
        return ImprovementState(train, begun)

    def one(shared: tuple[Context, Array], own: tuple[Hyper, ImprovementState]) -> tuple:
        (context, updates), (hyper, state) = shared, own
        world = make_world(context, settings.elites)

        def update(state: imagination.State) -> tuple[imagination.State, Metrics]:
            key = _key(own[1].train, state.updates, _UPDATE)
            return imagination.update(settings, hyper.imagination, nets, world, state, key)

        learned, metrics = loop.repeat(update, state.imagination, updates)
        train, refreshed = _refresh(program, context, hyper, state.train, learned)

        def critics(carry: tuple[TrainState, Array]) -> tuple[tuple[TrainState, Array], Metrics]:
            train, done = carry
            key = jax.random.fold_in(_key(train, learned.updates, _CRITICS), done)
            train, metrics = _critic_step(program, context, hyper, train, key)
            return (train, done + 1), metrics

        (train, _), fitted = loop.repeat(
            critics, (train, jnp.int32(0)), jnp.int32(settings.critic_steps)
        )
        return ImprovementState(train, learned), metrics | refreshed | fitted

    def run(context: Context, hyper: Hyper, state: ImprovementState, updates: Array) -> tuple:
        return sharding.over_members(one, (context, updates), (hyper, state), members)

    compiled = jax.jit(run, donate_argnums=2)
    return Improvement(
        init=jax.jit(jax.vmap(init, in_axes=(None, 0, 0))),
        chunk=lambda context, hyper, state, updates: compiled(
            context, hyper, state, np.int32(updates)
        ),
        compiled=compiled,
    )


def improved(program: Program, state: ImprovementState) -> TrainState:
    """The training with the policy that is deployed, the average of the improved ones.

    Works on one member and on all at once.
    """
    algorithm = _actor(program).replace(state.train.algorithm, state.imagination.average)
    return dataclasses.replace(state.train, algorithm=algorithm)


def _refresh(
    program: Program,
    context: Context,
    hyper: Hyper,
    train: TrainState,
    learned: imagination.State,
) -> tuple[TrainState, Metrics]:
    """Regenerates the imagined rows with the policy that would be deployed now."""
    algorithm = _actor(program).replace(train.algorithm, learned.average)
    own = hyper.training
    augmented, metrics = program.augmentation.refresh(
        _key(train, learned.updates, _REFRESH),
        own.augmentation,
        context,
        train.augmentation,
        loop.make_policy(program, context.normalizer, own.algorithm, algorithm),
    )
    return dataclasses.replace(train, augmentation=augmented), metrics


def _critic_step(
    program: Program, context: Context, hyper: Hyper, train: TrainState, key: Array
) -> tuple[TrainState, Metrics]:
    """One gradient step of the feasibility critics on a fresh batch, wherever they are."""
    own, actor = hyper.training, _actor(program)
    inputs = (context, own.augmentation, train.augmentation, key)
    batch = draw_transitions(program.config.train, program.augmentation, *inputs)
    if actor.update_critics is not None:
        algorithm, metrics = actor.update_critics(own.algorithm, train.algorithm, batch)
        return dataclasses.replace(train, algorithm=algorithm), metrics
    if train.critics is None:
        return train, {}
    critics, metrics = feasibility.update(
        own.feasibility, program.feasibility, train.critics, batch
    )
    return dataclasses.replace(train, critics=critics), metrics


def _actor(program: Program) -> Actor:
    assert program.algorithm.actor is not None, "this algorithm's policy is not improved"
    return program.algorithm.actor


def _phase_key(train: TrainState) -> jax.Array:
    # The first phase derives keys from its steps and from 2^31 - 1.
    return jax.random.fold_in(train.key, 2**31 - 2)


def _key(train: TrainState, updates: Array, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(_phase_key(train), updates + 1), purpose)
