"""Speed of everything that learns or acts, as a share of what the device can do.

    python -m benchmarks.learning --out=learning.json
    python -m benchmarks.learning --rows='train/proco|dynamics' --members=1,4 --turns=3

A row is a piece of work as the package compiles it: a training step of an algorithm with PROCO's
imagined rows, a regeneration of these rows, an update of the policy in imagination, a step of the
dynamics or cost ensemble, a decision of a policy bare, with the filter and with the planner, and a
step of the violation forecast. Observations are those of a task with the networks of a variant;
logs and parameters are random, as time does not depend on their values. The planner is measured
where every state needs a search.

- `GFLOP` counts the matrix products of one member, from the traced program.
- `share of peak` divides the rate of these by that of large f32 matrix products, measured in the
  same process, on as many devices as there are.
- `ms` is the time of the whole program, all members together, the median over turns. In a turn each
  row runs once for at least `--turn_s`, so that other load on the machine slows all rows alike.
- `compile s` is the time of tracing and of XLA, without the cache of compiled programs; `memory` is
  the temporary memory that XLA asked for on one device. With `--compilers=8` eight programs are
  compiled at a time, which takes less time together and more for each.
- `--kernels=10` adds, for each row, the kernels in which a GPU spends most time.

Without an accelerator the members of a row follow one another on each core, as in a run.
"""

import dataclasses
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from proco_jax.algorithms import imagination
from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.common import sharding
from proco_jax.common.commands import begin_command
from proco_jax.common.files import write_text
from proco_jax.common.random_streams import Stream, stream_keys
from proco_jax.config.presets import VARIANTS, set_variant
from proco_jax.config.schema import ALGORITHMS, ANY_REWARD, SHIELDS, Config, replaced
from proco_jax.data.logs import to_dataset
from proco_jax.deployment.acting import Deployed, initial_previous, make_actor
from proco_jax.deployment.shield import ShieldState
from proco_jax.deployment.violation_forecast import count_violations
from proco_jax.envs.tasks import get_task
from proco_jax.models import cost, dynamics
from proco_jax.models.dynamics_targets import fit_targets
from proco_jax.models.normalizer import fit_normalizer
from proco_jax.report.tables import markdown_table
from proco_jax.training import improvement, loop
from proco_jax.types import Array, Episode, TaskSpec

PEAK = "matrix product"
PEAK_SIZE = 1024
EPISODES, STEPS = 20, 1000
# States that a policy acts in at once, and for which the planner plans at once.
STATES = 16
LABELS = 20_000
HEADER = (
    *("row", "members", "GFLOP", "ms", "ms a member"),
    *("share of peak", "compile s", "memory, MB"),
)
KERNEL_HEADER = ("kernel", "ms", "share", "launches")


class Work(NamedTuple):
    """Something to measure.

    Attributes:
      name: of the row.
      members: that the program has.
      function: jitted.
      inputs: of the function.
      flop: of one member, in matrix products.
    """

    name: str
    members: int
    function: Any
    inputs: tuple[Any, ...]
    flop: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
      name: what is measured.
      members: that the program has.
      gflop: of one member.
      ms: of the program, median over the turns.
      share_of_peak: of the rate of large matrix products.
      compile_s: seconds of compilation.
      memory_mb: temporary memory on one device; None if the backend does not tell.
    """

    name: str
    members: int
    gflop: float
    ms: float
    share_of_peak: float
    compile_s: float
    memory_mb: float | None


class Program(NamedTuple):
    """What is measured, and the seconds in which it was traced and compiled."""

    work: Work
    call: Callable[..., Any]
    compile_s: float


class Inputs(NamedTuple):
    """Random inputs of all rows."""

    config: Config
    task: TaskSpec
    context: Context


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_string("task", "SafetyPointGoal1", "task whose observations are learned from")
    flags.DEFINE_enum("variant", "default", VARIANTS, "settings of the networks and batches")
    flags.DEFINE_list("members", ["1", "4", "16", "32"], "members of the training programs")
    flags.DEFINE_string("rows", "", "regular expression that the names of rows match")
    flags.DEFINE_integer("turns", 7, "turns of which the median is taken", lower_bound=1)
    flags.DEFINE_float("turn_s", 0.3, "seconds of a row in a turn, at least", lower_bound=0.0)
    flags.DEFINE_integer("compilers", 1, "programs compiled at a time", lower_bound=1)
    flags.DEFINE_integer("kernels", 0, "kernels shown of each row, on a GPU", lower_bound=0)
    flags.DEFINE_string("out", "", "JSON file for the rows")
    app.run(main)


def main(argv: Sequence[str]) -> None:
    """Measures and prints the rows."""
    begin_command(argv)
    o = flags.FLAGS
    members = [int(number) for number in o.members]
    sharding.use_cores_as_devices(max(members))
    jax.config.update("jax_enable_compilation_cache", False)
    config = set_variant(Config(experiment="learning", task=o.task), o.variant)
    programs = compile_programs(config, members, o.rows, o.compilers)
    rows = measure(programs, o.turns, o.turn_s)
    print(table(rows))
    kernels = []
    if o.kernels:
        kernels = [kernels_of(program, o.kernels) for program in programs]
        for row, found in zip(rows, kernels, strict=True):
            print(kernel_table(row, found))
    if o.out:
        found = {"machine": machine(), "task": o.task, "variant": o.variant}
        found["rows"] = [dataclasses.asdict(row) for row in rows]
        found["kernels"] = kernels
        write_text(Path(o.out), json.dumps(found, indent=1) + "\n")


def compile_programs(
    config: Config, members: Sequence[int], pattern: str, compilers: int = 1
) -> list[Program]:
    """The programs of the rows whose names match a pattern, after that of the matrix product.

    Args:
      compilers: programs that are compiled at a time, in threads. Python traces one at a time.

    Raises:
      ValueError: if no name matches.
    """

    def compile_one(work: Work) -> Program:
        start = time.perf_counter()
        call = work.function.lower(*work.inputs).compile()
        seconds = time.perf_counter() - start
        print(f"{work.name}, {work.members}: compiled in {seconds:.1f} s", flush=True)
        return Program(work, call, seconds)

    with ThreadPoolExecutor(compilers) as pool:
        programs = list(pool.map(compile_one, works(make_inputs(config), members, pattern)))
    if len(programs) == 1:
        raise ValueError(f"--rows={pattern}: found no row of that name; see this file's docstring")
    return programs


def measure(programs: Sequence[Program], turns: int, turn_s: float) -> list[Row]:
    """The rows of some programs, of which the first is the matrix product."""
    times: list[list[float]] = [[] for _ in programs]
    for _ in range(turns):
        for program, found in zip(programs, times, strict=True):
            found.append(seconds_of(program, turn_s))
    median = [float(np.median(found)) for found in times]
    first = programs[0].work
    peak = first.flop * first.members / median[0]
    return [
        Row(
            name=work.name,
            members=work.members,
            gflop=work.flop / 1e9,
            ms=1e3 * seconds,
            share_of_peak=work.flop * work.members / seconds / peak,
            compile_s=compile_s,
            memory_mb=temporary_memory(call),
        )
        for (work, call, compile_s), seconds in zip(programs, median, strict=True)
    ]


def seconds_of(program: Program, at_least: float) -> float:
    """Seconds of a call, over calls that take so many seconds together."""
    inputs = program.work.inputs
    jax.block_until_ready(program.call(*inputs))
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < at_least:
        jax.block_until_ready(program.call(*inputs))
        calls += 1
    return (time.perf_counter() - start) / calls


def kernels_of(program: Program, count: int) -> list[dict[str, Any]]:
    """The kernels of a GPU in which a call spends most time, all launches together.

    Returns:
      name, `ms` of all launches, `launches`, and `share` of the time of all kernels; the last entry
      is all kernels together. Empty without a GPU.
    """
    inputs = program.work.inputs
    jax.block_until_ready(program.call(*inputs))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program.call(*inputs))
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    spent, launches = Counter(), Counter()
    for plane in profile.planes:
        if not plane.name.startswith("/device:"):
            continue
        for line in plane.lines:
            for event in line.events if line.name.startswith("Stream") else ():
                spent[event.name] += event.duration_ns / 1e6
                launches[event.name] += 1
    whole = sum(spent.values())
    top = [(name, ms, launches[name]) for name, ms in spent.most_common(count)]
    top += [("all", whole, launches.total())] if spent else []
    return [
        {"name": name, "ms": ms, "launches": number, "share": ms / whole}
        for name, ms, number in top
    ]


def temporary_memory(program: Any) -> float | None:
    """Megabytes that a compiled program asks for beside inputs and outputs."""
    found = program.memory_analysis()
    return None if found is None else found.temp_size_in_bytes / 1e6


def make_inputs(config: Config) -> Inputs:
    """Random logs of a task, and a world model whose rollouts never end."""
    task = get_task(config.task)
    spec, actions = task.spec, task.action_size
    episodes = [random_episode(seed, spec.size, actions) for seed in range(EPISODES)]
    data = jax.tree.map(jnp.asarray, to_dataset(episodes))
    normalizer = jax.tree.map(jnp.asarray, fit_normalizer(spec, np.asarray(data.obs)))
    state = jax.jit(lambda key: dynamics.init(config.dynamics, spec, actions, key))(
        jax.random.key(0)
    )
    model = dynamics.Model(
        state.params,
        jnp.arange(config.dynamics.elites),
        normalizer,
        jax.tree.map(jnp.asarray, fit_targets(spec, normalizer, data)),
        jnp.float32(jnp.inf),
        jnp.ones(max(len(spec.rings), 1), bool),
        jnp.zeros(max(len(spec.rings), 1)),
        jnp.zeros(max(len(spec.vectors), 1), bool),
    )
    cost_net = cost.network(config.cost, config.encoder, spec)
    made = jax.jit(lambda key: cost.init(config.cost, cost_net, key))(jax.random.key(1))
    cost_model = cost.CostModel(made.params, normalizer, jnp.float32(0.5), jnp.float32(0.0))
    unsafe = jnp.arange(data.size) % 7 == 0
    world = WorldModel(model, cost_model, unsafe, jnp.arange(1000))
    spec_of_task = TaskSpec(spec, actions, task.episode_steps, config.cost_limit)
    return Inputs(config, spec_of_task, Context(data, normalizer, world))


def random_episode(seed: int, obs_size: int, actions: int) -> Episode:
    """An episode of noise, with values of rings in their range."""
    rng = np.random.default_rng(seed)
    return Episode(
        obs=rng.uniform(0, 1, (STEPS + 1, obs_size)).astype(np.float32),
        action=rng.uniform(-1, 1, (STEPS, actions)).astype(np.float32),
        reward=rng.normal(0, 0.02, STEPS).astype(np.float32),
        cost=np.zeros(STEPS, np.float32),
        terminated=False,
    )


def works(inputs: Inputs, members: Sequence[int], pattern: str) -> Iterator[Work]:
    """The matrix product, and everything else whose name matches."""
    yield matrix_product()

    def wanted(name: str) -> bool:
        return re.search(pattern, name) is not None

    for name in ALGORITHMS:
        if wanted(f"train/{name}"):
            yield from train_steps(inputs, name, members)
    for name, make in (
        ("regeneration", regenerations),
        ("imagination", imaginations),
    ):
        if wanted(name):
            yield from make(inputs, members)
    if wanted("dynamics"):
        yield dynamics_step(inputs)
    if wanted("cost"):
        yield cost_step(inputs)
    acting = [name for name in SHIELDS if wanted(f"act/{name}")]
    if acting or wanted("forecast"):
        yield from decisions(inputs, acting, wanted("forecast"))


def matrix_product() -> Work:
    """Large products, one on each device."""
    devices = len(jax.local_devices())
    left = jax.random.normal(jax.random.key(0), (devices, PEAK_SIZE, PEAK_SIZE))

    def one(shared: Array, own: tuple[Array]) -> tuple[Array, dict]:
        return own[0] @ shared, {}

    return over(PEAK, one, left[0], (left,), devices)


def train_steps(inputs: Inputs, name: str, members: Sequence[int]) -> Iterator[Work]:
    """A gradient step of an algorithm and, beside it, of the critics that it lacks."""
    program = loop.make_program(inputs.config, inputs.task, name, "proco")

    def one(shared: tuple[Context, Any], own: tuple[loop.Hyper, loop.TrainState]) -> tuple:
        return loop.train_step(program, *shared, *own)

    to_go = None
    if program.algorithm.batch == "segment":
        to_go = jax.jit(lambda context: loop.logged_sums(program, context))(inputs.context)
    for count in members:
        own = (loop.make_hyper(program, count), begun(program, inputs.context, count))
        yield over(f"train/{name}", one, (inputs.context, to_go), own, count)


def regenerations(inputs: Inputs, members: Sequence[int]) -> Iterator[Work]:
    """New imagined rows with the current policy."""
    program = loop.make_program(inputs.config, inputs.task, "proco", "proco")

    def one(context: Context, own: tuple[loop.Hyper, loop.TrainState]) -> tuple:
        hyper, state = own
        policy = loop.make_policy(program, context.normalizer, hyper.algorithm, state.algorithm)
        args = (state.key, hyper.augmentation, context, state.augmentation, policy)
        return program.augmentation.refresh(*args)

    for count in members:
        own = (loop.make_hyper(program, count), begun(program, inputs.context, count))
        yield over("regeneration", one, inputs.context, own, count)


def imaginations(inputs: Inputs, members: Sequence[int]) -> Iterator[Work]:
    """An update of the policy in imagination."""
    program = loop.make_program(inputs.config, inputs.task, "proco", "proco")
    settings = inputs.config.proco.imagination
    actor, make_world = program.algorithm.actor, program.augmentation.world
    assert actor is not None and make_world is not None
    nets = imagination.make_networks(inputs.config, inputs.task, actor.net)

    def begin(context: Context, hyper: imagination.Hyper, train: loop.TrainState) -> Any:
        world, policy = make_world(context, settings.elites), actor.params(train.algorithm)
        return imagination.init(settings, hyper, nets, world, policy, train.key)

    def one(context: Context, own: tuple[imagination.Hyper, Array, imagination.State]) -> tuple:
        hyper, key, state = own
        world = make_world(context, settings.elites)
        return imagination.update(settings, hyper, nets, world, state, key)

    for count in members:
        hyper = improvement.make_hyper(program, count).imagination
        train = begun(program, inputs.context, count)
        state = jax.jit(jax.vmap(begin, in_axes=(None, 0, 0)))(inputs.context, hyper, train)
        yield over("imagination", one, inputs.context, (hyper, train.key, state), count)


def begun(program: loop.Program, context: Context, members: int) -> loop.TrainState:
    """The states before the first step, each with an empty set of imagined rows."""
    keys = stream_keys(0, members, Stream.TRAINING)
    return loop.make_training(program).init(context, loop.make_hyper(program, members), keys)


def dynamics_step(inputs: Inputs) -> Work:
    """A gradient step of every member of the dynamics ensemble."""
    config, data = inputs.config, inputs.context.data
    net, world = dynamics.network(config.dynamics, inputs.task.observation), inputs.context.world
    assert world is not None
    state = jax.jit(
        lambda key: dynamics.init(
            config.dynamics, inputs.task.observation, inputs.task.action_size, key
        )
    )(jax.random.key(2))
    count = config.dynamics.members

    def one(shared: tuple[Any, ...], own: tuple[Array, dynamics.Member]) -> tuple:
        targets, normalizer, data, key = shared
        index, member = own
        step = dynamics.Step(key, jnp.int32(0), index, count)
        return dynamics.update_member(config.dynamics, net, targets, normalizer, data, step, member)

    shared = (world.dynamics.targets, inputs.context.normalizer, data, state.key)
    own = (jnp.arange(count), dynamics.members_of(state))
    return over("dynamics", one, shared, own, count)


def cost_step(inputs: Inputs) -> Work:
    """A gradient step of the cost ensemble."""
    config = inputs.config
    net = cost.network(config.cost, config.encoder, inputs.task.observation)
    state = jax.jit(lambda key: cost.init(config.cost, net, key))(jax.random.key(3))
    obs = inputs.context.normalizer(inputs.context.data.obs[:LABELS])
    labels = cost.Labels(obs, (jnp.arange(len(obs)) % 3 == 0).astype(jnp.float32))

    def step(labels: cost.Labels, state: cost.CostState) -> tuple:
        return cost.update(config.cost, net, labels, state)

    return Work("cost", 1, jax.jit(step), (labels, state), matmul_flop(step, labels, state))


def decisions(inputs: Inputs, shields: Sequence[str], forecast: bool) -> Iterator[Work]:
    """A policy's decision in some states under each shield, and a step of the forecast."""
    config = replaced(inputs.config, {"shield.planner_block": STATES})
    program = loop.make_program(config, inputs.task, "proco", "proco")
    train = begun(program, inputs.context, 1)
    critics, world = loop.critics_of(program, train), inputs.context.world
    assert critics is not None and world is not None
    # Thresholds that no state meets: the planner searches everywhere.
    guard = ShieldState(
        critics.params,
        world.dynamics,
        jnp.float32(-jnp.inf),
        jnp.float32(-jnp.inf),
        jnp.float32(ANY_REWARD),
        world.cost,
    )
    hyper = loop.make_hyper(program, 1).algorithm
    deployed = Deployed(train.algorithm, hyper, inputs.context.normalizer, guard)
    deployed = jax.device_put(deployed, jax.local_devices()[0])
    obs = inputs.context.data.obs[:STATES][None]
    keys = jax.random.split(jax.random.key(4), (1, STATES))
    active = jnp.ones((1, STATES), bool)
    previous = initial_previous(1, STATES, inputs.task.action_size)
    for name in shields:
        actor = make_actor(program, name)
        args = (deployed, actor.initial_carry(1, STATES), obs, previous, keys, active)
        function = jax.jit(actor.act)
        yield Work(f"act/{name}", 1, function, args, matmul_flop(actor.act, *args))
    if forecast:

        def unsafe(obs: Array) -> Array:
            return jnp.zeros(obs.shape[:-1], bool)

        def step(deployed: Deployed, start: Array, key: Array) -> Any:
            return count_violations(program, deployed, unsafe, start, 1, 0, key)

        args = (deployed, obs, jax.random.key(5))
        yield Work("forecast", 1, jax.jit(step), args, matmul_flop(step, *args))


def over(
    name: str, one: Callable[[Any, Any], tuple[Any, Any]], shared: Any, own: Any, members: int
) -> Work:
    """The program of all members, placed as a training places them."""
    first = jax.tree.map(lambda x: x[0], own)
    flop = matmul_flop(one, shared, first)
    placed = (
        sharding.replicate(shared, members),
        sharding.shard_members(own, members),
    )

    def whole(shared: Any, own: Any) -> Any:
        return sharding.over_members(one, shared, own, members)

    return Work(name, members, jax.jit(whole), placed, flop)


def matmul_flop(function: Callable[..., Any], *inputs: Any) -> float:
    """Floating-point operations in the matrix products of a function.

    Loops of fixed length count with their length, others once, and of branches the largest.
    """
    return _flop(jax.make_jaxpr(function)(*inputs).jaxpr)


def _flop(jaxpr: Any) -> float:
    return math.fsum(_flop_of(equation) for equation in jaxpr.eqns)


def _flop_of(equation: Any) -> float:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        inner = math.prod(shape[axis] for axis in contracted)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * inner
    found = [_flop(inner) for inner in _programs(list(equation.params.values()))]
    if equation.primitive.name == "cond":
        return max(found, default=0.0)
    times = equation.params["length"] if equation.primitive.name == "scan" else 1
    return times * math.fsum(found)


def _programs(values: Sequence[Any]) -> Iterator[Any]:
    """The programs among the parameters of an equation."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _programs(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr


def machine() -> dict[str, Any]:
    """The devices and the version of JAX."""
    devices = jax.local_devices()
    return {"device": devices[0].device_kind, "devices": len(devices), "jax": jax.__version__}


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    cells = [
        (
            row.name,
            row.members,
            f"{row.gflop:.3f}",
            f"{row.ms:.2f}",
            f"{row.ms / row.members:.2f}",
            f"{row.share_of_peak:.0%}",
            f"{row.compile_s:.1f}",
            "-" if row.memory_mb is None else f"{row.memory_mb:.0f}",
        )
        for row in rows
    ]
    return markdown_table(HEADER, cells)


def kernel_table(row: Row, kernels: Sequence[dict[str, Any]]) -> str:
    """The kernels of a row as a Markdown table."""
    title = f"\n{row.name}, {row.members}:"
    if not kernels:
        return f"{title} no kernels of a GPU"
    rows = [(x["name"], f"{x['ms']:.3f}", f"{x['share']:.0%}", x["launches"]) for x in kernels]
    return f"{title}\n\n{markdown_table(KERNEL_HEADER, rows)}"


if __name__ == "__main__":
    run()
