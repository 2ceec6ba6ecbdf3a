"""The oracle ladder: which link of the chain loses safety.

    python -m proco_jax.ladder --config=experiments/point_goal.py

Works on the finished run of that config, with the augmentation `proco` among its augmentations.
PROCO's own algorithm is trained on

    full     true costs, full data, nothing imagined
    real     true rollouts from restored logged states, true costs
    labels   true rollouts, labels of the cost network
    model    imagined rollouts, labels of the true rule
    proco    imagined rollouts, labels of the cost network

where all but the first use the same starts and actions. The first rung that loses safety names the
broken link. The ladder also reports the run's own policies, the agreement of imagined with real
violations, and V_h against the states that the simulator found infeasible. Every policy is
evaluated without a shield, so a rung tells what training gave. Results: `ladder/ladder.json`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from proco_jax import command_line
from proco_jax.augmentation.base import Context
from proco_jax.augmentation.buffer import Buffer
from proco_jax.augmentation.rollouts import Imagined
from proco_jax.common.files import read_npz, sha256, write_atomic
from proco_jax.common.metrics import MetricsWriter
from proco_jax.common.sharding import use_cores_as_devices
from proco_jax.config.schema import Config
from proco_jax.data.logs import Logs, to_dataset
from proco_jax.diagnostics import counterfactuals
from proco_jax.diagnostics import critics as diagnostics
from proco_jax.diagnostics.counterfactuals import Pairs, Truth
from proco_jax.diagnostics.dynamics_error import Margin
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.tasks import Task, get_task
from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.models.cost import CostModel
from proco_jax.pipeline import policies, stages
from proco_jax.pipeline.policies import Learner, Trained
from proco_jax.pipeline.workdir import Run, check_finished, open_run
from proco_jax.pipeline.world_model import Data, Nets, make_nets
from proco_jax.report.ladder_table import ladder_tables
from proco_jax.report.tables import summarize, summary_metrics
from proco_jax.training.loop import critics_of, make_hyper, make_program

RUNGS = ("full", "real", "labels", "model", "proco")
WORLDS = 128
ALGORITHM = "proco"
_REPORT = "ladder.json"
_REMEDY = "remove it, then the same command makes it anew"

# Ladder and ablations both have this flag, and one process may import both.
_SEEDS = flags.DEFINE_integer(
    "seeds",
    0,
    "Seeds of each rung; 0 for as many as the run has.",
    lower_bound=0,
    allow_override=True,
)
_RUNGS = flags.DEFINE_list("rungs", list(RUNGS), "Which rungs to train.")


class Base(NamedTuple):
    """What the finished run provides.

    Attributes:
      run: of the ladder, in its own folder, with its number of seeds.
      own: the finished run.
      task: the task.
      nets: networks of the world model.
      logs: the logs.
      data: the logs on the device.
      contexts: what trainings with each augmentation read, and content hashes of it.
      margin: the rule's own margin.
      trained: the run's policies of PROCO's algorithm, by augmentation, all seeds.
    """

    run: Run
    own: Run
    task: Task
    nets: Nets
    logs: Logs
    data: Data
    contexts: Mapping[str, tuple[Context, dict[str, Any]]]
    margin: Margin
    trained: Mapping[str, Trained]


def main(config: Config, workdir: Path) -> None:
    """Trains the rungs, or resumes."""
    seeds = _SEEDS.value or config.seeds
    climb(config, workdir, _RUNGS.value, seeds, command_line.store())


def climb(
    config: Config, workdir: Path, rungs: Sequence[str], seeds: int, store: Path | None = None
) -> None:
    """Everything, in order; what is there already is not done again.

    Args:
      store: root of the shared artifacts; None for the default, see `workdir.open_run`.

    Raises:
      ValueError: on an unknown rung, a run that is not finished or was not trained with PROCO, or
        data whose states the simulator cannot restore.
    """
    if unknown := sorted(set(rungs) - set(RUNGS)):
        raise ValueError(f"--rungs: found {', '.join(unknown)}, expected some of {RUNGS}")
    check_finished(workdir)
    if "proco" not in config.augmentations or ALGORITHM not in config.algorithms:
        raise ValueError(
            f"--config.augmentations, algorithms: found {config.augmentations}, "
            f"{config.algorithms}; the ladder needs 'proco' among both"
        )
    if "none" not in config.shields:
        raise ValueError(
            f"--config.shields: found {config.shields}; the ladder needs the run's own policies "
            "without shield, expected 'none' among them"
        )
    use_cores_as_devices(max(seeds, config.seeds, config.dynamics.members))
    with open_run(config, workdir, store, log=command_line.say) as own:
        counterfactuals.recorded_seeds(config, [])
        stages.check_made(own)
        own = dataclasses.replace(own, timed=False)
        folder = workdir / "ladder"
        folder.mkdir(exist_ok=True)
        with MetricsWriter(folder) as metrics:
            base = _base(own, dataclasses.replace(own, workdir=folder, metrics=metrics), seeds)
            _report(base, rungs)


def _base(own: Run, run: Run, seeds: int) -> Base:
    config = own.config
    run.config = dataclasses.replace(
        config,
        seeds=seeds,
        evaluation=dataclasses.replace(config.evaluation, interim_episodes=0),
    )
    task = get_task(config.task)
    logs, grounding = stages.load_and_ground(own)
    margin = stages.margin_of(grounding)
    if margin is None:
        raise ValueError("the ladder needs a rule's distance to the unsafe set; this run has none")
    nets, data = make_nets(config, logs.spec), stages.device_data(logs)
    fitted = stages.fit_world_model(own, nets, data, logs, grounding)
    contexts = stages.make_contexts(own, nets, data, fitted, config.augmentations)
    trained = {}
    for name in config.augmentations:
        program = make_program(config, stages.task_spec(task, config, logs), ALGORITHM, name)
        context, inputs = contexts[name]
        learner = Learner(ALGORITHM, name)
        trained[name] = policies.train_policies(own, program, task, context, learner, inputs)
    return Base(run, own, task, nets, logs, data, contexts, margin, trained)


def _report(base: Base, rungs: Sequence[str]) -> None:
    with BatchedEnv(base.task, WORLDS, base.run.config.env.workers) as env:
        with base.run.stage("pairs", "Trajectories, imagined and in the simulator"):
            pairs = _pairs(env, base)
        with base.run.stage("truth", "States that are infeasible in the simulator"):
            truth = _truth(env, base)
    # Rungs that are not requested now keep their earlier results.
    rows = (base.run.read_json(_REPORT) or {}).get("rungs", {})
    for policy in base.trained.values():
        rows[f"run: {policy.name}"] = _row(base, base.own, policy, truth)
    report = {"rollouts": _agreement(base, pairs), "rungs": rows}
    base.run.write_json(_REPORT, report)
    for rung in rungs:
        with base.run.stage(f"rung/{rung}", f"Rung: {rung}"):
            rows[rung] = _rung(base, rung, pairs, truth)
        base.run.write_json(_REPORT, report)
    base.run.log("\n" + ladder_tables(report))


def _rung(base: Base, rung: str, pairs: Pairs, truth: Truth) -> dict[str, Any]:
    """Trains one rung and evaluates it."""
    config = base.run.config
    proco, inputs = base.contexts["proco"]
    if rung == "full":
        # Every other violating episode is kept for judging V_h.
        full = to_dataset([*base.logs.episodes, *base.logs.dropped[1::2]])
        context = Context(jax.tree.map(jnp.asarray, full), base.data.normalizer, None)
        augmentation = "none"
    else:
        context, augmentation = _with_fixed(base, proco, rung, pairs), "fixed_trajectories"
    spec = stages.task_spec(base.task, config, base.logs)
    program = make_program(config, spec, ALGORITHM, augmentation)
    made_of = {**inputs, "rung": rung, "pairs": sha256(base.run.workdir / "pairs.npz")}
    # Rows of results tell rungs apart by their folder, not by an augmentation of their name.
    folder = base.run.workdir / f"{rung}-{config.seeds}"
    folder.mkdir(exist_ok=True)
    learner = Learner(ALGORITHM, augmentation)
    row_learner = Learner(ALGORITHM, "none" if augmentation == "none" else "proco")
    with MetricsWriter(folder) as metrics:
        run = dataclasses.replace(base.run, workdir=folder, metrics=metrics)
        trained = policies.train_policies(run, program, base.task, context, learner, made_of)
        deployed = policies.deploy(trained, context, None)
        policies.evaluate(
            run,
            program,
            base.task,
            row_learner,
            "none",
            deployed,
            trained.inputs,
            config.train.steps,
            config.evaluation.episodes,
        )
    return _row(base, run, trained._replace(learner=row_learner), truth)


def _row(base: Base, run: Run, trained: Trained, truth: Truth) -> dict[str, Any]:
    """Results of a learner without shield, and the agreement of its V_h with the simulator."""
    wanted = (trained.program.algorithm.name, trained.learner.augmentation, "none")
    rows = [
        row
        for row in load_rows(run.workdir / FILE)
        if (row["algorithm"], row["augmentation"], row["shield"]) == wanted
    ]
    critics = critics_of(trained.program, trained.state)
    assert critics is not None
    vh = diagnostics.values(
        trained.program.feasibility, critics.params, base.data.normalizer, truth.obs
    )
    return {
        **summary_metrics(summarize(rows)[0]),
        "feasibility": counterfactuals.feasibility_agreement(vh, truth.infeasible),
    }


def _with_fixed(base: Base, context: Context, rung: str, pairs: Pairs) -> Context:
    """The context of a rung: its trajectories and labels, and labels of the logs."""
    world = context.world
    assert world is not None
    imagined, logged = pairs.imagined, world.unsafe
    if rung in ("real", "model"):
        logged = jnp.asarray(_by_rule(base, np.asarray(context.data.obs)))
        logged = logged[context.data.obs_index + 1]
    whole = np.full(len(pairs.obs), pairs.unsafe.shape[1], np.int32)
    if rung == "real":
        fixed = imagined._replace(obs=pairs.obs, unsafe=pairs.unsafe, length=whole)
    elif rung == "labels":
        unsafe = _by_network(base, pairs.obs[:, 1:])
        fixed = imagined._replace(obs=pairs.obs, unsafe=unsafe, length=whole)
    elif rung == "model":
        fixed = imagined._replace(unsafe=_by_rule(base, imagined.obs[:, 1:]))
    else:
        fixed = imagined
    held: Imagined = jax.tree.map(lambda x: jnp.asarray(x)[None], fixed)
    buffer = Buffer(held, jnp.int32(1))
    return context._replace(world=world._replace(unsafe=logged, trajectories=buffer))


def _by_rule(base: Base, obs: np.ndarray) -> np.ndarray:
    """Whether the rule, without its margin, calls states `[..., O]` unsafe."""
    flat = obs.reshape(-1, obs.shape[-1])
    return np.reshape(base.margin(flat) >= 0, obs.shape[:-1])


def _by_network(base: Base, obs: np.ndarray) -> np.ndarray:
    flat = obs.reshape(-1, obs.shape[-1])
    found = diagnostics.unsafe_states(base.nets.cost, _cost_model(base), flat)
    return found.reshape(obs.shape[:-1])


def _cost_model(base: Base) -> CostModel:
    world = base.contexts["proco"][0].world
    assert world is not None and world.cost is not None
    return world.cost


def _agreement(base: Base, pairs: Pairs) -> dict[str, Any]:
    """Imagined violations within the horizon against the simulator's."""
    kept = np.arange(pairs.unsafe.shape[1]) < pairs.imagined.length[:, None]
    real = np.any(pairs.unsafe, axis=1)
    by_rule = (_by_rule(base, pairs.imagined.obs[:, 1:]) & kept).any(axis=1)
    by_network = (pairs.imagined.unsafe & kept).any(axis=1)
    return {
        "trajectories": len(pairs.obs),
        "horizon": pairs.unsafe.shape[1],
        "rule": counterfactuals.rollout_agreement(by_rule, real),
        "network": counterfactuals.rollout_agreement(by_network, real),
    }


def _pairs(env: BatchedEnv, base: Base) -> Pairs:
    path = base.run.workdir / "pairs.npz"
    if not path.exists():
        trained = base.trained["proco"]
        hyper, state = _first_member(trained)
        context = base.contexts["proco"][0]
        pairs = counterfactuals.imagined_and_real(
            env, trained.program, context, base.logs, hyper, state
        )
        arrays = {f"imagined_{k}": v for k, v in pairs.imagined._asdict().items()}
        arrays |= {"obs": pairs.obs, "unsafe": pairs.unsafe}
        write_atomic(path, lambda p: np.savez_compressed(p, **arrays))
    fields = [f"imagined_{name}" for name in Imagined._fields]
    stored = read_npz(path, [*fields, "obs", "unsafe"], _REMEDY)
    return Pairs(Imagined(*(stored[name] for name in fields)), stored["obs"], stored["unsafe"])


def _truth(env: BatchedEnv, base: Base) -> Truth:
    path = base.run.workdir / "truth.npz"
    if not path.exists():
        logs = base.logs
        episodes = [*logs.holdout, *logs.dropped[::2]]
        indices = [*logs.split.holdout, *logs.split.dropped[::2]]
        trained = base.trained.get("none", base.trained["proco"])
        hyper, state = _first_member(trained)
        truth = counterfactuals.judge_states(
            env,
            trained.program,
            base.contexts["proco"][0],
            episodes,
            counterfactuals.recorded_seeds(base.own.config, indices),
            base.margin,
            hyper,
            state,
        )
        write_atomic(path, lambda p: np.savez_compressed(p, **truth._asdict()))
    return Truth(**read_npz(path, Truth._fields, _REMEDY))


def _first_member(trained: Trained) -> tuple[Any, Any]:
    """Hyperparameters and state of the algorithm of the first seed."""
    hyper = make_hyper(trained.program, 1).algorithm
    return jax.tree.map(lambda x: x[0], (hyper, trained.state.algorithm))


if __name__ == "__main__":
    command_line.run(main)
