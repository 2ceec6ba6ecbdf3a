"""The stages that train policies and run them in the simulator."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.algorithms.base import Previous
from proco_jax.augmentation.base import Context
from proco_jax.common import sharding
from proco_jax.common.checkpoint import load_arrays
from proco_jax.common.compiler import fast_options
from proco_jax.common.files import sha256
from proco_jax.common.random_streams import Stream, action_keys, stream_keys
from proco_jax.config.schema import ALGORITHMS, ANY_REWARD, Config
from proco_jax.deployment.acting import Deployed, count_policies, make_actor
from proco_jax.deployment.policy import policy_name, shield_content
from proco_jax.deployment.shield import ShieldState
from proco_jax.envs.episodes import Observed
from proco_jax.envs.tasks import Task
from proco_jax.evaluation.episodes import Player, evaluate_policies
from proco_jax.evaluation.results import FILE, load_rows, result_row, write_rows
from proco_jax.pipeline.checkpointed_fit import run_fit
from proco_jax.pipeline.store import artifact, digest
from proco_jax.pipeline.workdir import Run
from proco_jax.training import improvement, loop
from proco_jax.training.improvement import ImprovementState
from proco_jax.training.loop import Program, TrainState
from proco_jax.types import Array

# Raised when the meaning of a training changes while its settings do not.
VERSION = 4


class Learner(NamedTuple):
    """An algorithm with an augmentation, both by name."""

    algorithm: str
    augmentation: str


class Trained(NamedTuple):
    """The policies of all seeds of a learner.

    Attributes:
      learner: algorithm and augmentation.
      name: of the policies, in folders, stages and reports.
      program: what they were trained by.
      state: the last training states, leaves `[S, ...]`.
      inputs: all that the training depends on.
    """

    learner: Learner
    name: str
    program: Program
    state: TrainState
    inputs: Mapping[str, Any]


def train_policies(
    run: Run,
    program: Program,
    task: Task,
    context: Context,
    learner: Learner,
    inputs: Mapping[str, Any],
) -> Trained:
    """Trains all seeds of a learner in one program, or takes them from the store.

    Where the algorithm has an actor and the augmentation a world, a second fit improves the policy
    in imagination; both have checkpoints of their own in the artifact.

    Args:
      context: on one device.
      inputs: content hashes of the logs and of the world model that the context holds.
    """
    config = run.config
    name = policy_name(program.algorithm.name, learner.augmentation)
    inputs = training_inputs(program, learner, inputs)
    keys = stream_keys(config.seed, config.seeds, Stream.TRAINING)
    hyper = loop.make_hyper(program, config.seeds)
    # Once for both phases.
    context = sharding.replicate(context, config.seeds)
    init, warm_up, make_chunk = compiled(program, context, hyper, keys)
    improve = (
        _compiled_improvement(run, program, context) if improvement.improves(program) else None
    )

    def make(folder: Path) -> None:
        def after_chunk(done: int, state: TrainState) -> None:
            _evaluate_interim(run, program, task, context, learner, state, inputs, done)

        own = functools.partial(sharding.unpad_members, members=config.seeds)
        place = functools.partial(sharding.shard_members, members=config.seeds)
        state = run_fit(
            run,
            f"train/{name}",
            folder / "checkpoints",
            config.train.steps,
            config.train.chunk,
            make_chunk,
            lambda: own(init()),
            warm_up=lambda state: own(warm_up(state)),
            checkpoint_every=config.train.checkpoint_every,
            place=place,
            unplace=own,
            after_chunk=after_chunk,
        )
        if improve is not None:
            begin, make_updates, _ = improve
            settings = config.proco.imagination
            run_fit(
                run,
                f"train/{name}/imagination",
                folder / "imagination",
                settings.updates,
                settings.interval,
                make_updates,
                lambda: own(begin(state)),
                place=place,
                unplace=own,
            )

    folder = artifact(run.store, "policies", inputs, make, run.log)

    # Without the copies that fill up the devices.
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((config.seeds, *x.shape[1:]), x.dtype), jax.eval_shape(init)
    )
    if improve is None:
        state = load_arrays(folder / "checkpoints", like, verified=True)
    else:
        last = load_arrays(folder / "imagination", improve[2](like), verified=True)
        state = improvement.improved(program, last)
    return Trained(learner, name, program, state, inputs)


def training_inputs(
    program: Program, learner: Learner, made_of: Mapping[str, Any]
) -> dict[str, Any]:
    """All that a training by a program depends on, as JSON data."""
    whole, improves = dataclasses.asdict(program.config), improvement.improves(program)
    names = ("task", "cost_limit", "seeds", "seed", "encoder", "feasibility", "train")
    settings = {name: whole[name] for name in names}
    del settings["train"]["checkpoint_every"]
    if learner.augmentation != "none":
        settings |= {name: whole[name] for name in ("rollouts", "augmentation")}
        if "episodes" not in made_of:
            del settings["augmentation"]["episode_share"]
    if learner.algorithm in ALGORITHMS:
        settings[learner.algorithm] = whole[learner.algorithm]
        if learner.algorithm == "proco":
            if improves:
                # They are imagined after its training.
                del settings["proco"]["imagination"]["episodes"]
            else:
                del settings["proco"]["imagination"]
        if learner.algorithm == "cdt" and learner.augmentation != "none":
            # By which law imagined segments are drawn.
            settings["segments"] = 2
    else:
        # An algorithm of the user's own may read any setting, and its code may change.
        unread = {"experiment", "variant", "system", "env", "shield", "evaluation", "shields"}
        others = set(whole) - unread
        settings |= {name: whole[name] for name in others}
        # It changes no result.
        del settings["data"]["verify"]
        settings["source"] = source_digest(learner.algorithm)
    if improves:
        # By which law: worlds are judged with residuals, policies averaged.
        settings["improvement"] = 2
    return {
        "version": VERSION,
        "algorithm": learner.algorithm,
        "augmentation": learner.augmentation,
        "settings": settings,
        **made_of,
    }


def source_digest(algorithm: str) -> str | None:
    """SHA-256 of the file of a `module:function`; None if none is found."""
    try:
        found = importlib.util.find_spec(algorithm.partition(":")[0])
    except ImportError:
        return None
    origin = None if found is None else found.origin
    return sha256(Path(origin)) if origin and Path(origin).is_file() else None


def deploy(trained: Trained, context: Context, shield: ShieldState | None) -> Deployed:
    """The trained policies as they are deployed, where they act."""
    hyper = loop.make_hyper(trained.program, trained.state.step.shape[0]).algorithm
    deployed = Deployed(trained.state.algorithm, hyper, context.normalizer, shield)
    return sharding.for_acting(deployed, trained.state.step.shape[0])


def shield_state(trained: Trained, context: Context) -> ShieldState | None:
    """The state of a shield from a training's own critics, with the config's thresholds, without
    rules and without a search for reward.

    None if it was trained without an augmentation: critics that have seen no unsafe state accept
    every action.
    """
    critics = loop.critics_of(trained.program, trained.state)
    if critics is None or context.world is None:
        return None
    settings = trained.program.config.shield
    return ShieldState(
        critics.params,
        context.world.dynamics,
        jnp.float32(settings.qh_threshold),
        jnp.float32(settings.planner_threshold),
        jnp.float32(ANY_REWARD),
        context.world.cost,
    )


def evaluate(
    run: Run,
    program: Program,
    task: Task,
    learner: Learner,
    shield: str,
    deployed: Deployed,
    inputs: Mapping[str, Any],
    step: int,
    episodes: int,
) -> None:
    """Runs every seed's policy under a shield and writes the rows of `results.json`.

    Rows that are there already, with the same settings, are not made again.
    """
    config = run.config
    names = (program.algorithm.name, learner.augmentation, shield)
    settings = digest(
        {
            "policy": inputs,
            "shield": shield_inputs(config, shield, deployed),
            "evaluation": {"seed": config.evaluation.seed, "worlds": config.evaluation.worlds},
            "backend": config.system.env or config.env.backend,
        }
    )
    if _evaluated(run, (*names, step, episodes, settings)):
        return
    player = _shared_player(run, program, learner, shield, deployed)
    found = evaluate_policies(config, task, player, config.seeds, episodes, log=run.log)
    rows = [
        result_row(
            task,
            own,
            source=config.data.source,
            regime=config.data.regime,
            algorithm=names[0],
            augmentation=names[1],
            shield=names[2],
            seed=config.seed + i,
            step=step,
            settings=settings,
            cost_limit=config.cost_limit,
        )
        for i, own in enumerate(found)
    ]
    write_rows(run.workdir / FILE, rows)


class _Acting(NamedTuple):
    """A `Player` of no policies in particular: its `act` takes deployed ones before all else."""

    initial_carry: Callable[[int, int], Any]
    act: Callable[[Deployed, Any, Observed], tuple[Array, Any]]


def make_player(program: Program, shield: str, deployed: Deployed, seed: int) -> Player:
    """How deployed policies, whose first seed is given, act in an evaluation."""
    return _player_of(deployed, _make_acting(program, shield, count_policies(deployed), seed))


def _shared_player(
    run: Run, program: Program, learner: Learner, shield: str, deployed: Deployed
) -> Player:
    """As `make_player`, compiled once for all policies of a run that differ in their arrays only,
    e.g. in the augmentation that they were trained with."""
    if shield == "none":
        # Interim evaluations have no shield at hand, and none is needed.
        deployed = deployed._replace(shield=None)
    name = (learner.algorithm, shield, count_policies(deployed))
    config, acting = run.compiled.get(name, (None, None))
    if acting is None or config != program.config:
        acting = _make_acting(program, shield, count_policies(deployed), run.config.seed)
        run.compiled[name] = (program.config, acting)
    return _player_of(deployed, acting)


def _player_of(deployed: Deployed, acting: _Acting) -> Player:
    return Player(acting.initial_carry, functools.partial(acting.act, deployed))


def _make_acting(program: Program, shield: str, policies: int, seed: int) -> _Acting:
    keys = stream_keys(seed, policies, Stream.EVALUATION)
    actor = make_actor(program, shield)

    @functools.partial(jax.jit, compiler_options=fast_options())
    def act(deployed: Deployed, carry: Any, observed: Observed) -> tuple[Array, Any]:
        drawn = action_keys(keys, observed.seeds, observed.steps)
        previous = Previous(observed.action, observed.reward, observed.cost)
        fresh = actor.initial_carry(*observed.steps.shape)

        def reset(new: Array, old: Array) -> jax.Array:
            begins = observed.steps == 0
            return jnp.where(begins.reshape(*begins.shape, *[1] * (old.ndim - 2)), new, old)

        carry = jax.tree.map(reset, fresh, carry)
        action, carry = actor.act(deployed, carry, observed.obs, previous, drawn, observed.active)
        return action, sharding.held_for_acting(carry, policies)

    def initial_carry(policies: int, count: int) -> Any:
        return sharding.for_acting(actor.initial_carry(policies, count), policies)

    return _Acting(initial_carry, act)


def compiled(
    program: Program, context: Context, hyper: loop.Hyper, keys: Array
) -> tuple[Any, Any, Any]:
    """Functions that make fresh states, warm them up, and make chunks of a number of steps.

    Args:
      context: on one device.
      hyper: of all members, leaves `[M]`.
      keys: `[M]` typed keys of the members.
    """
    members = keys.shape[0]
    spread = functools.partial(sharding.shard_members, members=members)
    placed = sharding.replicate(context, members)
    training = loop.make_training(program, members)

    def init() -> TrainState:
        return training.init(placed, spread(hyper), spread(keys))

    def warm_up(state: TrainState) -> TrainState:
        place = functools.partial(sharding.place_members, members=members)
        return training.warm_up(placed, spread(hyper), spread(state), place)

    def make_chunk(steps: int) -> Any:
        assert steps == program.config.train.chunk
        spread_hyper = spread(hyper)
        return lambda state: training.chunk(
            placed, spread_hyper, sharding.place_members(state, members)
        )

    return init, warm_up, make_chunk


def _compiled_improvement(run: Run, program: Program, context: Context) -> tuple[Any, Any, Any]:
    """Functions that begin the improvement of trained states, make chunks of some updates, and tell
    the shapes of its states from those of trained ones."""
    members = run.config.seeds
    spread = functools.partial(sharding.shard_members, members=members)
    hyper = improvement.make_hyper(program, members)
    placed = sharding.replicate(context, members)
    compiled = improvement.make_improvement(program, members)

    def begin(state: TrainState) -> ImprovementState:
        return compiled.init(placed, spread(hyper), spread(state))

    def make_chunk(updates: int) -> Any:
        spread_hyper = spread(hyper)
        return lambda state: compiled.chunk(
            placed, spread_hyper, sharding.place_members(state, members), updates
        )

    def shapes(like: TrainState) -> ImprovementState:
        return jax.eval_shape(compiled.init, context, hyper, like)

    return begin, make_chunk, shapes


def _evaluate_interim(
    run: Run,
    program: Program,
    task: Task,
    context: Context,
    learner: Learner,
    state: TrainState,
    inputs: Mapping[str, Any],
    step: int,
) -> None:
    """Interim evaluations, without shield; the last step has the final one."""
    settings = run.config.evaluation
    if run.config.system.file and not run.config.system.env:
        return
    due = settings.interim_episodes > 0 and step % settings.interim_every == 0
    if not (due and 0 < step < run.config.train.steps):
        return
    trained = Trained(learner, "", program, state, inputs)
    deployed = deploy(trained, context, None)
    episodes = settings.interim_episodes
    evaluate(run, program, task, learner, "none", deployed, inputs, step, episodes)


def _evaluated(run: Run, wanted: tuple[Any, ...]) -> bool:
    """Whether `results.json` holds the rows of every seed of a policy."""
    path = run.workdir / FILE
    rows = load_rows(path) if path.exists() else []
    names = ("algorithm", "augmentation", "shield", "step", "episodes", "settings")
    seeds = {row["seed"] for row in rows if tuple(row[name] for name in names) == wanted}
    return seeds >= set(range(run.config.seed, run.config.seed + run.config.seeds))


def shield_inputs(config: Config, shield: str, deployed: Deployed) -> Any:
    """What a shield depends on beside its critics: settings, thresholds, and how it chooses."""
    guard = deployed.shield
    if shield == "none" or guard is None:
        return None
    settings = dataclasses.asdict(config.shield)
    # The thresholds are those that are deployed.
    return {"name": shield, **settings, **shield_content(guard)}
