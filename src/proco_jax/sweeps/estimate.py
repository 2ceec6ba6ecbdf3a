"""Memory and time of a sweep before it runs: by calculation, or from a short probe.

By calculation, memory of a member is that of its states, and of the largest set of arrays that are
alive at once in the traced program. XLA fuses operations and reuses buffers, so it needs less: a
probe compiles the program for one and for two members, and takes what the second one adds. Time
comes from finished units of the same sweep, from a probe, or from what the user states.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.config.schema import Config, flatten
from proco_jax.models import cost, dynamics
from proco_jax.models.normalizer import Normalizer
from proco_jax.pipeline.policies import Learner, compiled
from proco_jax.pipeline.stages import learners_of
from proco_jax.sweeps.description import Unit
from proco_jax.sweeps.folder import Root, unit_seconds
from proco_jax.system.description import task_of
from proco_jax.training import loop
from proco_jax.training.loop import Program, make_program, make_training
from proco_jax.types import Dataset, TaskSpec

# Of a device's memory, so that other programs and fragmentation have room.
_USABLE = 0.8
# Of the machine's memory, which other processes use too.
_USABLE_HOST = 0.5
# A state, its successor, and its copy for a checkpoint.
_STATE_COPIES = 3


def fitting_members(program: Program, context: Context, most: int, probe: bool = False) -> int:
    """How many members fit on the devices of this process; at most `most`.

    Args:
      context: arrays, or their shapes and types.
      probe: measure the memory of a member, see `measured_bytes`; else it is calculated.
    """
    devices = jax.local_devices()
    free = device_memory() - tree_bytes(context)
    if devices[0].platform == "cpu":
        # The members of a core follow one another, so only their states add up, and all cores
        # share the memory of the machine.
        count = free // (_STATE_COPIES * tree_bytes(abstract_states(program, context)))
    else:
        each = measured_bytes(program, context) if probe else member_bytes(program, context)
        count = free // each * len(devices)
    return int(min(max(count, 1), most))


def device_memory() -> int:
    """Bytes that a program may use on a device, or on all devices of a machine without one."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] * _USABLE)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _USABLE_HOST)


def member_bytes(program: Program, context: Context) -> int:
    """Bytes of one member while it is trained, without the context."""
    states = abstract_states(program, context)
    hyper = loop.make_hyper(program, 1)
    one = jax.vmap(_refresh_and_step(program), in_axes=(None, 0, 0))
    traced = jax.make_jaxpr(one)(context, hyper, states)
    return _STATE_COPIES * tree_bytes(states) + peak_bytes(traced.jaxpr)


def measured_bytes(program: Program, context: Context) -> int:
    """Bytes that a second member adds to the compiled program of one, on this process's device.

    Args:
      context: arrays, or their shapes and types; nothing is computed.
    """
    states = _STATE_COPIES * tree_bytes(abstract_states(program, context))
    one, two = (_compiled_bytes(program, context, members) for members in (1, 2))
    # States stay, whatever the compiler makes of the rest.
    return max(two - one, states)


def _compiled_bytes(program: Program, context: Context, members: int) -> int:
    """Bytes of arguments, results and everything between of a compiled step of so many members."""
    shapes = jax.eval_shape(lambda tree: tree, context)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
    hyper = loop.make_hyper(program, members)
    states = jax.eval_shape(make_training(program).init, shapes, hyper, keys)
    step = jax.jit(jax.vmap(_refresh_and_step(program), in_axes=(None, 0, 0)))
    used = step.lower(shapes, hyper, states).compile().memory_analysis()
    if used is None:
        raise NotImplementedError("this backend tells no memory of compiled programs")
    sizes = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return int(sizes - used.alias_size_in_bytes)


def abstract_states(program: Program, context: Context) -> loop.TrainState:
    """Shapes and types of the training state of one member, leaves `[1, ...]`."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    hyper = loop.make_hyper(program, 1)
    return jax.eval_shape(make_training(program).init, context, hyper, keys)


def abstract_context(config: Config, augmentation: str, transitions: int) -> Context:
    """Shapes and types of the arrays that a training reads, before there are logs.

    Args:
      transitions: of logs that the run does not collect itself.
    """
    task, spec = task_of(config), task_spec(config)
    episodes, steps = config.data.episodes, task.episode_steps
    if config.data.source != "collect":
        episodes = -(-transitions // steps)
    rows, actions = episodes * steps, task.action_size

    def make() -> Context:
        whole, number = jnp.zeros(rows, jnp.int32), jnp.zeros(rows)
        data = Dataset(
            obs=jnp.zeros((rows + episodes, spec.observation.size)),
            obs_index=whole,
            action=jnp.zeros((rows, actions)),
            reward=number,
            cost=number,
            discount=number,
            episode=whole,
            remaining=whole,
            step=whole,
        )
        each = jnp.zeros(spec.observation.size)
        normalizer, world = Normalizer(each, each), None
        if augmentation != "none":
            model = dynamics.empty_model(config.dynamics, spec.observation, actions)
            cost_model, risky = None, rows
            if augmentation != "control":
                net = cost.network(config.cost, config.encoder, spec.observation)
                params = cost.init(config.cost, net, jax.random.key(0)).params
                zero = jnp.zeros(())
                cost_model = cost.CostModel(params, normalizer, zero, zero)
                risky = max(1, int(rows * config.rollouts.risky_top))
            world = WorldModel(
                model, cost_model, jnp.zeros(rows, bool), jnp.zeros(risky, jnp.int32)
            )
        return Context(data, normalizer, world)

    return jax.eval_shape(make)


def task_spec(config: Config) -> TaskSpec:
    """What algorithms know of a config's task, with the fields that a collection records."""
    task = task_of(config)
    return TaskSpec(task.spec, task.action_size, task.episode_steps, config.cost_limit)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a pytree."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def peak_bytes(jaxpr: core.Jaxpr) -> int:
    """The most bytes of results that are alive at once in a traced program, its inputs left out.

    Operations run in the order of the program; a result is alive until its last use.
    """
    last = {}
    for index, eqn in enumerate(jaxpr.eqns):
        last |= {var: index for var in eqn.invars if not isinstance(var, core.Literal)}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    alive, total, peak = {}, 0, 0
    for index, eqn in enumerate(jaxpr.eqns):
        inner = max((peak_bytes(sub) for sub in _inner(eqn)), default=0)
        for var in eqn.outvars:
            alive[var] = _bytes(var.aval)
            total += alive[var]
        peak = max(peak, total + inner)
        for var in {v for v in (*eqn.invars, *eqn.outvars) if not isinstance(v, core.Literal)}:
            if var in alive and last.get(var, -1) <= index:
                total -= alive.pop(var)
    return peak


def plan_lines(
    root: Root,
    units: Sequence[Unit],
    members: int,
    seconds_per_step: float,
    probe: bool,
    transitions: int,
) -> Iterator[str]:
    """What a sweep would do, as lines of text.

    Args:
      root: whose finished units say how long others take.
      members: members trained at once; 0 for as many as fit.
      seconds_per_step: of all members of a program at once; 0 if it is not known.
      probe: measure it, and the memory of a member, for each kind of program.
      transitions: as for `abstract_context`.
    """
    finished = [unit for unit in units if root.unit_finished(unit)]
    runs = sum(len(unit.runs) for unit in units)
    policies = sum(unit.members * len(unit.runs[0].config.augmentations) for unit in units)
    yield f"{len(units)} units, {runs} runs, {policies} policies; {len(finished)} units finished"
    measured = [s / unit.members for unit in finished if (s := unit_seconds(root, unit.name))]
    usable, total, known = device_memory(), 0.0, _bytes_by_kind(units, probe)
    for unit in units:
        config, seconds = unit.runs[0].config, 0.0
        for learner in learners_of(config):
            program = make_program(
                config, task_spec(config), learner.algorithm, learner.augmentation
            )
            context = abstract_context(config, learner.augmentation, transitions)
            each, shared = known[_kind(config, learner)], tree_bytes(context)
            fit = members or fitting_members(program, context, unit.members, probe)
            at_once = min(fit, unit.members)
            programs = -(-unit.members // at_once)
            step = _probe(program, context, at_once) if probe else seconds_per_step
            seconds += step * config.train.steps * programs
            turns = f" in {programs} turns" if programs > 1 else ""
            speed = f", {step * 1e3:.3g} ms a step" if step else ""
            needed = _size(shared + each * at_once)
            yield (
                f"{unit.name}, augmentation {learner.augmentation}: {unit.members} members "
                f"({len(unit.runs)} runs x {config.seeds} seeds), {at_once} at once{turns}; "
                f"{_size(each)} a member, {needed} of {_size(usable)} usable{speed}"
            )
        if not seconds and measured:
            seconds = float(np.median(measured)) * unit.members
        if not root.unit_finished(unit):
            total += seconds
    if not total:
        source = "unknown: give --seconds_per_step, or --probe, or finish one unit"
    elif probe or seconds_per_step:
        origin = "probe" if probe else "--seconds_per_step"
        source = f"{total / 3600:.2g} h of training one after the other, by {origin}; world models "
        source += "and evaluation come on top"
    else:
        source = f"{total / 3600:.2g} h one after the other, by the median of finished units"
    yield f"time: {source}"
    how = "of compiled programs, by probe" if probe else "by calculation from the shapes of states"
    yield f"memory: {how}, data and intermediate results"


def time_step(config: Config, algorithm: str, augmentation: str, members: int) -> float:
    """Seconds of a gradient step of so many members, measured on data that are all zero."""
    program = make_program(config, task_spec(config), algorithm, augmentation)
    return _probe(program, abstract_context(config, augmentation, 1), members)


def _bytes_by_kind(units: Sequence[Unit], probe: bool) -> dict[str, int]:
    """Bytes of a member for each kind of training, on its task with the largest observation."""
    largest: dict[str, tuple[Config, Learner]] = {}
    for unit in units:
        config = unit.runs[0].config
        for learner in learners_of(config):
            kind = _kind(config, learner)
            size = task_spec(config).observation.size
            if kind not in largest or size > task_spec(largest[kind][0]).observation.size:
                largest[kind] = config, learner
    found = {}
    for kind, (config, learner) in largest.items():
        program = make_program(config, task_spec(config), *learner)
        # The logs are counted apart, so their number does not matter.
        count = measured_bytes if probe else member_bytes
        found[kind] = count(program, abstract_context(config, learner.augmentation, 1))
    return found


def _kind(config: Config, learner: Learner) -> str:
    """What the memory of a training depends on, apart from its task."""
    names = ("encoder", "dynamics", "cost", "rollouts", "augmentation", "feasibility", "train")
    flat = flatten(config)
    sections = {*names, learner.algorithm}
    own = {k: v for k, v in flat.items() if k.split(".")[0] in sections and type(v) is not float}
    return json.dumps([learner, own], sort_keys=True)


def _refresh_and_step(program: Program) -> Any:
    """A refresh of the augmentation and a gradient step, whose arrays are not alive together."""

    def run(context: Context, hyper: loop.Hyper, state: loop.TrainState) -> Any:
        policy = loop.make_policy(program, context.normalizer, hyper.algorithm, state.algorithm)
        augmented, _ = program.augmentation.refresh(
            state.key, hyper.augmentation, context, state.augmentation, policy
        )
        state = state.replace(augmentation=augmented)  # pyright: ignore
        segments = program.algorithm.batch == "segment"
        to_go = loop.logged_sums(program, context) if segments else None
        return loop.train_step(program, context, to_go, hyper, state)

    return run


def _probe(program: Program, context: Context, members: int) -> float:
    """Seconds of a gradient step of so many members, measured on a second chunk on zeros."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), context)
    hyper = loop.make_hyper(program, members)
    keys = jax.random.split(jax.random.key(0), members)
    init, _, make_chunk = compiled(program, zeros, hyper, keys)
    steps = program.config.train.chunk
    chunk = make_chunk(steps)
    state, metrics = chunk(init())
    jax.block_until_ready((state, metrics))
    begun = time.monotonic()
    jax.block_until_ready(chunk(state))
    return (time.monotonic() - begun) / steps


def _inner(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs inside of an operation: bodies of loops, branches, calls."""
    for value in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
    ):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def _bytes(leaf: Any) -> int:
    if not hasattr(leaf, "shape"):
        return 0
    size = int(np.prod(leaf.shape, dtype=np.int64))
    # A typed key is two unsigned integers.
    return size * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
