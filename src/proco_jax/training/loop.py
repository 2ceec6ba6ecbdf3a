"""The compiled training loop: one program for all members.

A member is a seed with one setting of the hyperparameters.

    train_chunk = jit(vmap over members (scan over intervals (refresh, scan over steps)))

A refresh regenerates the imagined rows with the current policy. A step draws logged and imagined
rows, updates the algorithm on them, and the feasibility critics beside it. Large arrays are
arguments of the program, never constants. Every random draw derives its key by folding the step
number into the member's key, so a resumed run equals an uninterrupted one bit for bit.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from proco_jax.algorithms import feasibility, make_algorithm
from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.augmentation import make_augmentation
from proco_jax.augmentation.base import Augmentation, Context, Policy
from proco_jax.config.schema import Config
from proco_jax.models import cost, dynamics
from proco_jax.models.dynamics_targets import Targets
from proco_jax.models.networks import Critic, DynamicsNetwork, make_encoder
from proco_jax.models.normalizer import Normalizer
from proco_jax.training.sampling import draw_segments, draw_transitions
from proco_jax.types import Array, Dataset, TaskSpec, Transition

# Purposes of the keys that a step derives.
_BATCH, _REFRESH, _INIT, _WARMUP, _UPDATE = range(5)


class Program(NamedTuple):
    """What is fixed when the training of one algorithm with one augmentation is compiled.

    Attributes:
      config: of the run.
      task: what is learned.
      dynamics: network of a dynamics member.
      cost: network of a cost member.
      feasibility: networks of the feasibility critics.
      algorithm: what learns.
      augmentation: what the batches hold beside logged rows.
    """

    config: Config
    task: TaskSpec
    dynamics: DynamicsNetwork
    cost: Critic
    feasibility: feasibility.Networks
    algorithm: Algorithm
    augmentation: Augmentation


class Hyper(NamedTuple):
    """The hyperparameters of a member, scalars, or with a leading axis `[M]` those of all members.

    Attributes:
      algorithm: of `Program.algorithm`.
      augmentation: of `Program.augmentation`.
      feasibility: of critics that are trained beside an algorithm without its own.
    """

    algorithm: Any
    augmentation: Any
    feasibility: feasibility.Hyper


@struct.dataclass
class TrainState:
    """The training of a member.

    Attributes:
      algorithm: state of the algorithm.
      critics: feasibility critics; None if the algorithm trains its own, or without augmentation.
      augmentation: state of the augmentation.
      step: gradient steps done.
      key: typed key of the member.
    """

    algorithm: Any
    critics: feasibility.FeasibilityState | None
    augmentation: Any
    step: Array
    key: Array


def make_program(
    config: Config, task: TaskSpec, algorithm: str = "proco", augmentation: str = "none"
) -> Program:
    """The program of an algorithm with an augmentation, both by name."""
    dynamics_net = dynamics.network(config.dynamics, task.observation)
    cost_net = cost.network(config.cost, config.encoder, task.observation)
    encoder = make_encoder(config.encoder, task.observation)
    return Program(
        config=config,
        task=task,
        dynamics=dynamics_net,
        cost=cost_net,
        feasibility=feasibility.make_networks(config.feasibility, encoder),
        algorithm=make_algorithm(algorithm, config, task),
        augmentation=make_augmentation(augmentation, config, dynamics_net, cost_net),
    )


def make_hyper(program: Program, members: int) -> Hyper:
    """The hyperparameters of the config, the same for all members: leaves `[M]`."""
    hyper = Hyper(
        program.algorithm.hyper,
        program.augmentation.hyper,
        feasibility.make_hyper(program.config.feasibility),
    )
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (members,)), hyper)


def make_train_init(program: Program) -> Callable[[Context, Hyper, Array], TrainState]:
    """Compiled: context, hyperparameters `[M]` and keys `[M]` to states with leading axis M."""

    def one(context: Context, hyper: Hyper, key: Array) -> TrainState:
        init_key = jax.random.fold_in(key, 2**31 - 1)
        algorithm_key, critic_key = (
            jax.random.fold_in(jax.random.fold_in(init_key, _INIT), i) for i in range(2)
        )
        state = program.algorithm.init(algorithm_key, hyper.algorithm)
        critics = None
        if _trains_critics(program):
            critics = feasibility.init(program.feasibility, program.task.action_size, critic_key)
        return TrainState(
            algorithm=state,
            critics=critics,
            augmentation=program.augmentation.init(
                jax.random.fold_in(init_key, _WARMUP),
                hyper.augmentation,
                context,
                make_policy(program, context.normalizer, hyper.algorithm, state),
            ),
            step=jnp.int32(0),
            key=key,
        )

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))


def make_train_chunk(
    program: Program,
) -> Callable[[Context, Hyper, TrainState], tuple[TrainState, Metrics]]:
    """Compiled: context, hyperparameters `[M]` and states `[M]` to states and metrics `[M]`.

    The states are donated. A chunk is `train.chunk` gradient steps, with a refresh of the
    augmentation before every `rollouts.interval` of them.
    """
    config = program.config
    intervals = config.train.chunk // config.rollouts.interval

    def interval(context: Context, hyper: Hyper, state: TrainState, _: None) -> tuple:
        augmented, metrics = program.augmentation.refresh(
            _step_key(state, _REFRESH),
            hyper.augmentation,
            context,
            state.augmentation,
            make_policy(program, context.normalizer, hyper.algorithm, state.algorithm),
        )
        state = dataclasses.replace(state, augmentation=augmented)
        state, learned = jax.lax.scan(
            lambda s, _: train_step(program, context, hyper, s),
            state,
            None,
            length=config.rollouts.interval,
        )
        return state, metrics | _mean(learned)

    def one(context: Context, hyper: Hyper, state: TrainState) -> tuple[TrainState, Metrics]:
        body = functools.partial(interval, context, hyper)
        state, metrics = jax.lax.scan(body, state, None, length=intervals)
        return state, _mean(metrics)

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)), donate_argnums=2)


def train_step(
    program: Program, context: Context, hyper: Hyper, state: TrainState
) -> tuple[TrainState, Metrics]:
    """One gradient step of one member on a fresh batch."""
    batch_key, segment_key = jax.random.split(_step_key(state, _BATCH))
    update_key = _step_key(state, _UPDATE)
    algorithm, augmentation = program.algorithm, program.augmentation
    settings, update = program.config.train, algorithm.update

    def transitions() -> Transition:
        inputs = (context, hyper.augmentation, state.augmentation, batch_key)
        return draw_transitions(settings, augmentation, *inputs)

    if algorithm.batch == "segment":
        length = algorithm.segment_length
        segments = draw_segments(settings, augmentation, context, length, segment_key)
        learned, metrics = update(update_key, hyper.algorithm, state.algorithm, segments)
        batch = None
    else:
        batch = transitions()
        learned, metrics = update(update_key, hyper.algorithm, state.algorithm, batch)
    critics = state.critics
    if critics is not None:
        if batch is None:
            batch = transitions()
        critics, more = feasibility.update(hyper.feasibility, program.feasibility, critics, batch)
        metrics = metrics | more
    state = dataclasses.replace(state, algorithm=learned, critics=critics, step=state.step + 1)
    return state, metrics


def make_policy(program: Program, normalizer: Normalizer, hyper: Any, state: Any) -> Policy:
    """An algorithm's policy as rollouts ask for it: key and raw obs `[..., O]` to actions.

    Policies with a memory act as at the start of an episode.
    """
    algorithm = program.algorithm
    action_size = program.task.action_size

    def one(key: Array, obs: Array) -> jax.Array:
        carry = algorithm.initial_carry()
        previous = no_previous(action_size)
        return algorithm.act(key, hyper, state, carry, obs, previous)[0]

    def policy(key: Array, obs: Array) -> jax.Array:
        rows = normalizer(obs).reshape(-1, obs.shape[-1])
        keys = jax.random.split(key, rows.shape[0])
        return jax.vmap(one)(keys, rows).reshape(*obs.shape[:-1], action_size)

    return policy


def no_previous(action_size: int) -> Previous:
    """What a policy is told at the start of an episode."""
    return Previous(jnp.zeros(action_size), jnp.zeros(()), jnp.zeros(()))


def critics_of(program: Program, state: TrainState) -> feasibility.FeasibilityState | None:
    """The feasibility critics of a training, the algorithm's own or those trained beside it."""
    if program.algorithm.critics is not None:
        return program.algorithm.critics(state.algorithm)
    return state.critics


def make_dynamics_chunk(
    config: Config, net: DynamicsNetwork, steps: int
) -> Callable[
    [Targets, Normalizer, Dataset, Dataset, dynamics.DynamicsState],
    tuple[dynamics.DynamicsState, Metrics],
]:
    """Compiled: steps of the dynamics fit, then one validation.

    Returns:
      A function of targets, normalizer, training data, held-out data and a state to the state and
      metrics. The state is donated.
    """

    def chunk(
        targets: Targets,
        normalizer: Normalizer,
        data: Dataset,
        holdout: Dataset,
        state: dynamics.DynamicsState,
    ) -> tuple[dynamics.DynamicsState, Metrics]:
        state, metrics = jax.lax.scan(
            lambda s, _: dynamics.update(config.dynamics, net, targets, normalizer, data, s),
            state,
            None,
            length=steps,
        )
        state, validation = dynamics.validate(net, targets, normalizer, holdout, state)
        return state, _mean(metrics) | validation

    return jax.jit(chunk, donate_argnums=4)


def make_cost_chunk(
    config: Config, net: Critic, steps: int
) -> Callable[[cost.Labels, cost.CostState], tuple[cost.CostState, Metrics]]:
    """Compiled: labels and a state to the state after so many steps, and metrics."""

    def chunk(labels: cost.Labels, state: cost.CostState) -> tuple[cost.CostState, Metrics]:
        state, metrics = jax.lax.scan(
            lambda s, _: cost.update(config.cost, net, labels, s), state, None, length=steps
        )
        return state, _mean(metrics)

    return jax.jit(chunk, donate_argnums=1)


def _trains_critics(program: Program) -> bool:
    """Whether critics are trained beside the algorithm: they serve the shield alone."""
    return program.algorithm.critics is None and program.augmentation.name != "none"


def _step_key(state: TrainState, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), purpose)


def _mean(metrics: Metrics) -> Metrics:
    return {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
