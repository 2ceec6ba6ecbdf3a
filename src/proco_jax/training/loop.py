"""The compiled training loop: one program for all members.

A member is a seed with one setting of the hyperparameters.

    chunk = jit(members (loop over intervals (refresh, loop over steps)))

Members are vectorized on accelerators and follow one another on a CPU core. A refresh regenerates
the imagined rows with the current policy. A step draws logged and imagined rows, updates the
algorithm on them, and the feasibility critics beside it. Large arrays are arguments of the program,
never constants. Every random draw derives its key by folding the step number into the member's key,
so a resumed run equals an uninterrupted one bit for bit.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from proco_jax.algorithms import feasibility, make_algorithm
from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.augmentation import make_augmentation
from proco_jax.augmentation.base import Augmentation, Context, Policy
from proco_jax.common import sharding
from proco_jax.common.compiler import jit_run_once
from proco_jax.config.schema import Config
from proco_jax.models import cost, dynamics
from proco_jax.models.dynamics_targets import Targets
from proco_jax.models.networks import Critic, DynamicsNetwork, make_encoder
from proco_jax.models.normalizer import Normalizer
from proco_jax.training.sampling import draw_segments, draw_transitions, sums_to_go
from proco_jax.types import Array, Dataset, TaskSpec, ToGo, Transition

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


class Training(NamedTuple):
    """The compiled functions of a training; states have a leading axis `[M]` of members.

    Attributes:
      init: context, hyperparameters and keys `[M]` to fresh states.
      warm_up: context, hyperparameters and fresh states to states with a filled augmentation; a
        fourth argument places states on their devices.
      chunk: context, hyperparameters and states to states and metrics `[M]`. A chunk is
        `train.chunk` gradient steps, with a refresh of the augmentation before every
        `rollouts.interval` of them. The states are donated.
      compiled: the program behind `warm_up` and `chunk`, compiled once for both.
    """

    init: Callable[[Context, Hyper, Array], TrainState]
    warm_up: Callable[..., TrainState]
    chunk: Callable[[Context, Hyper, TrainState], tuple[TrainState, Metrics]]
    compiled: Any


def make_training(program: Program, members: int | None = None) -> Training:
    """The compiled functions of a program.

    Args:
      members: how many of the states' rows are trained; further ones, which fill up devices, may
        be left as they are. None for all.
    """
    config, augmentation = program.config, program.augmentation
    intervals = config.train.chunk // config.rollouts.interval

    def refresh(context: Context, hyper: Hyper, state: TrainState, key: Array) -> tuple:
        augmented, metrics = augmentation.refresh(
            key,
            hyper.augmentation,
            context,
            state.augmentation,
            make_policy(program, context.normalizer, hyper.algorithm, state.algorithm),
        )
        return dataclasses.replace(state, augmentation=augmented), metrics

    def one(shared: tuple[Context, ToGo | None, Array], own: tuple[Hyper, TrainState]) -> tuple:
        (context, to_go, warmup), (hyper, state) = shared, own
        warms_up = warmup >= 0
        begin = _warmup_key(state, augmentation.warmup, warmup)

        def interval(state: TrainState) -> tuple[TrainState, Metrics]:
            key = jnp.where(warms_up, begin, _step_key(state, _REFRESH))
            state, metrics = refresh(context, hyper, state, key)
            steps = jnp.where(warms_up, 0, config.rollouts.interval)
            step = functools.partial(train_step, program, context, to_go, hyper)
            state, learned = repeat(step, state, steps)
            return state, metrics | learned

        return repeat(interval, state, jnp.where(warms_up, 1, intervals))

    @functools.partial(jax.jit, donate_argnums=2)
    def run(context: Context, hyper: Hyper, state: TrainState, warmup: Array) -> tuple:
        # A pass over all logs, so once for all members and steps.
        segments = program.algorithm.batch == "segment"
        to_go = logged_sums(program, context) if segments else None
        return sharding.over_members(one, (context, to_go, warmup), (hyper, state), members)

    def warm_up(
        context: Context,
        hyper: Hyper,
        state: TrainState,
        place: Callable[[TrainState], TrainState] = lambda state: state,
    ) -> TrainState:
        for i in range(augmentation.warmup):
            state, _ = run(context, hyper, place(state), np.int32(i))
        return state

    return Training(
        init=jit_run_once(jax.vmap(functools.partial(_init, program), in_axes=(None, 0, 0))),
        warm_up=warm_up,
        chunk=lambda context, hyper, state: run(context, hyper, state, np.int32(-1)),
        compiled=run,
    )


def train_step(
    program: Program, context: Context, to_go: ToGo | None, hyper: Hyper, state: TrainState
) -> tuple[TrainState, Metrics]:
    """One gradient step of one member on a fresh batch.

    Args:
      to_go: of the logs, see `logged_sums`; None for an algorithm that takes transitions.
    """
    batch_key, segment_key = jax.random.split(_step_key(state, _BATCH))
    update_key = _step_key(state, _UPDATE)
    algorithm, augmentation = program.algorithm, program.augmentation
    settings, update = program.config.train, algorithm.update

    def transitions() -> Transition:
        inputs = (context, hyper.augmentation, state.augmentation, batch_key)
        return draw_transitions(settings, augmentation, *inputs)

    if algorithm.batch == "segment":
        assert algorithm.segments is not None and to_go is not None
        inputs = (context, hyper.augmentation, state.augmentation, to_go, segment_key)
        segments = draw_segments(algorithm.segments, augmentation, *inputs)
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


def logged_sums(program: Program, context: Context) -> ToGo:
    """Returns and costs to go of the logs, with the costs of the program's augmentation."""
    return sums_to_go(context.data, program.augmentation.cost(context))


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
    config: Config, net: DynamicsNetwork, steps: int, trajectories: bool = False
) -> Callable[
    [Targets, Normalizer, Dataset, Dataset, dynamics.DynamicsState],
    tuple[dynamics.DynamicsState, Metrics],
]:
    """Compiled: steps of the dynamics fit, then one validation.

    Args:
      steps: of the chunk.
      trajectories: whether the second part of the fit is made, on trajectories.

    Returns:
      A function of targets, normalizer, training data, held-out data and a state to the state and
      metrics. The state is donated.
    """

    ensemble = config.dynamics.members
    update, validate = dynamics.update_member, dynamics.validate_member
    if trajectories:
        update = dynamics.update_member_on_trajectories
        validate = functools.partial(dynamics.validate_member_on_trajectories, config.dynamics)

    def one(shared: Any, own: tuple[Array, dynamics.Member]) -> tuple[dynamics.Member, Metrics]:
        (targets, normalizer, data, holdout, key, done), (index, member) = shared, own

        def step(carry: tuple[dynamics.Member, Array]) -> tuple[Any, Metrics]:
            member, done = carry
            fit = dynamics.Step(key, done, index, ensemble)
            member, metrics = update(config.dynamics, net, targets, normalizer, data, fit, member)
            return (member, done + 1), metrics

        (member, _), metrics = repeat(step, (member, done), jnp.int32(steps))
        member, validation = validate(net, targets, normalizer, holdout, member)
        return member, metrics | validation

    def chunk(
        targets: Targets,
        normalizer: Normalizer,
        data: Dataset,
        holdout: Dataset,
        state: dynamics.DynamicsState,
    ) -> tuple[dynamics.DynamicsState, Metrics]:
        shared = (targets, normalizer, data, holdout, state.key, state.step)
        own = (jnp.arange(ensemble), dynamics.members_of(state))
        own = sharding.pad_members(own, ensemble)
        member, metrics = sharding.over_members(one, shared, own, ensemble)
        member, metrics = sharding.unpad_members((member, metrics), ensemble)
        state = dataclasses.replace(state, **member._asdict(), step=state.step + steps)
        return state, _mean(metrics)

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


def _init(program: Program, context: Context, hyper: Hyper, key: Array) -> TrainState:
    """A member before the first refresh of its augmentation."""
    algorithm_key, critic_key = (
        jax.random.fold_in(jax.random.fold_in(_init_key(key), _INIT), i) for i in range(2)
    )
    state = program.algorithm.init(algorithm_key, hyper.algorithm)
    if program.algorithm.prepare is not None:
        # Imagined episodes say what is within reach of a policy that learns from them.
        found = program.augmentation.episodes(hyper.augmentation, context)
        if found is None:
            logs = (context.data, logged_sums(program, context))
        else:
            logs = (found[0].data, found[0].to_go)
        state = program.algorithm.prepare(hyper.algorithm, state, *logs)
    critics = None
    if _trains_critics(program):
        critics = feasibility.init(program.feasibility, program.task.action_size, critic_key)
    state, critics = _with_pretrained_encoder(program, context, state, critics)
    policy = make_policy(program, context.normalizer, hyper.algorithm, state)
    augmented = program.augmentation.init(hyper.augmentation, context, policy)
    return TrainState(state, critics, augmented, jnp.int32(0), key)


def _with_pretrained_encoder(
    program: Program, context: Context, state: Any, critics: feasibility.FeasibilityState | None
) -> tuple[Any, feasibility.FeasibilityState | None]:
    """Fresh feasibility critics that encode states as the cost network does, wherever they are."""
    algorithm, world = program.algorithm, context.world
    pretrained = program.config.feasibility.pretrained_encoder
    if not pretrained or world is None or world.cost is None:
        return state, critics
    # One member of the ensemble: the critics have one encoder.
    source = jax.tree.map(lambda x: x[0], world.cost.params)

    def begin(fresh: feasibility.FeasibilityState) -> feasibility.FeasibilityState:
        return feasibility.with_encoder(program.feasibility, fresh, source)

    if algorithm.critics is not None and algorithm.with_critics is not None:
        state = algorithm.with_critics(state, begin(algorithm.critics(state)))
    return state, None if critics is None else begin(critics)


def _init_key(key: Array) -> jax.Array:
    return jax.random.fold_in(key, 2**31 - 1)


def _warmup_key(state: TrainState, count: int, index: Array) -> jax.Array:
    keys = jax.random.split(jax.random.fold_in(_init_key(state.key), _WARMUP), max(count, 1))
    return keys[jnp.maximum(index, 0)]


def repeat(
    step: Callable[[Any], tuple[Any, Metrics]], state: Any, times: Array
) -> tuple[Any, Metrics]:
    """Applies a step so many times; the metrics are means over the steps, 0 without any."""
    # Traced once: what its shapes are found with is taken again for the loop's body.
    step = jax.jit(step, inline=True)
    like = jax.eval_shape(step, state)[1]
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in like.items()}

    def body(_: Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        state, metrics = step(carry[0])
        return state, jax.tree.map(jnp.add, carry[1], metrics)

    state, total = jax.lax.fori_loop(0, times, body, (state, zeros))
    count = jnp.maximum(times, 1)
    return state, {name: value / count for name, value in total.items()}


def _trains_critics(program: Program) -> bool:
    """Whether critics are trained beside the algorithm: they serve the shield alone."""
    return program.algorithm.critics is None and program.augmentation.name != "none"


def _step_key(state: TrainState, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), purpose)


def _mean(metrics: Metrics) -> Metrics:
    return {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
