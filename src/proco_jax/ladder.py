"""The oracle ladder: which link of the chain loses safety.

    python -m proco_jax.ladder --config=experiments/point_goal.py

Works on the finished run of that config. The same learner is trained on

    full     true costs, full data, nothing imagined
    real     true rollouts from restored logged states, true costs
    labels   true rollouts, labels of the cost network
    model    imagined rollouts, labels of the true rule
    proco    imagined rollouts, labels of the cost network

where all but the first see the same starts and actions; the first rung at which
safety is lost names the broken link. Beside them stand the run's own learners,
the agreement of imagined with real violations, and V_h against what the
simulator says could not have been avoided. Results: `ladder/ladder.json`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from proco_jax import command_line
from proco_jax.algorithms import proco
from proco_jax.augmentation.buffer import Buffer
from proco_jax.augmentation.rollouts import Imagined
from proco_jax.common import sharding as devices
from proco_jax.common.files import write_atomic
from proco_jax.common.metrics import MetricsWriter
from proco_jax.config.schema import Config
from proco_jax.data.logs import Logs, load_logs, to_dataset
from proco_jax.deployment import policy as deploy
from proco_jax.diagnostics import counterfactuals
from proco_jax.diagnostics import critics as diagnosis
from proco_jax.diagnostics import dynamics_error as foresight
from proco_jax.diagnostics.counterfactuals import Pairs, Truth
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.tasks import Task, get_task
from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.knowledge.grounding import ground
from proco_jax.pipeline import learning
from proco_jax.pipeline import stages as pipeline
from proco_jax.pipeline.fits import Data, first
from proco_jax.pipeline.learning import Learner
from proco_jax.pipeline.workdir import Run, check_finished, open_run
from proco_jax.report.ladder_table import ladder_tables
from proco_jax.report.tables import played, summarize
from proco_jax.training.loop import Context, Knowledge, Parts

RUNGS = ("full", "real", "labels", "model", "proco")
WORLDS = 128
_REPORT = "ladder.json"

_SEEDS = flags.DEFINE_integer(
    "seeds", 0, "Seeds of each rung; 0 for as many as the run has.", lower_bound=0
)
_RUNGS = flags.DEFINE_list("rungs", list(RUNGS), "Which rungs to train.")


class Base(NamedTuple):
    """What the finished run hands over.

    Attributes:
      run: of the ladder, in its own folder.
      own: of the finished run.
      task: what is played.
      parts: the networks.
      logs: the logs.
      data: the same on the device.
      known: dynamics and cost network, one fit.
      risk: the rule's own margin.
      agents: the run's learners, all seeds.
    """

    run: Run
    own: Run
    task: Task
    parts: Parts
    logs: Logs
    data: Data
    known: Knowledge
    risk: foresight.Risk
    agents: dict[str, proco.AgentState]


def main(config: Config, workdir: Path) -> None:
    """Climbs the ladder, or goes on with it."""
    climb(config, workdir, _RUNGS.value, _SEEDS.value or config.seeds)


def climb(config: Config, workdir: Path, rungs: Sequence[str], seeds: int) -> None:
    """Everything, in order; what is there already is not done again.

    Raises:
      ValueError: on an unknown rung, a run that is not finished, or data whose
        states the simulator cannot restore.
    """
    if unknown := sorted(set(rungs) - set(RUNGS)):
        raise ValueError(f"--rungs: found {', '.join(unknown)}, expected some of {RUNGS}")
    check_finished(workdir)
    if not config.proco.enabled:
        raise ValueError(
            "--config.proco.enabled: found False; the ladder asks where PROCO's chain breaks"
        )
    devices.share_cores(max(seeds, config.seeds))
    with open_run(config, workdir, log=command_line.say) as own:
        counterfactuals.seeds_of(config, [])
        own = dataclasses.replace(own, timed=False)
        folder = workdir / "ladder"
        folder.mkdir(exist_ok=True)
        with MetricsWriter(folder) as metrics:
            base = _base(own, dataclasses.replace(own, workdir=folder, metrics=metrics), seeds)
            _report(base, rungs)


def _base(own: Run, run: Run, seeds: int) -> Base:
    config = own.config
    run.config = dataclasses.replace(
        # Every rung is deployed as the run's policies were.
        deploy.deployed(own.workdir, config),
        seeds=seeds,
        # One fit for all seeds here, whatever the run has.
        dynamics=dataclasses.replace(config.dynamics, per_seed=False),
        evaluation=dataclasses.replace(config.evaluation, interim_episodes=0),
    )
    task = get_task(config.task)
    grounding = ground(config, task.spec, own.workdir, own.log)
    risk = pipeline.risk_of(grounding)
    if risk is None:
        raise ValueError("the ladder asks a rule for the distance to danger; this run has none")
    logs = load_logs(config, own.workdir, own.log)
    parts, data = pipeline.make_parts(own, logs), pipeline.device_data(logs)
    known = pipeline.know(own, parts, data, logs, grounding, risk)
    if config.dynamics.per_seed:
        known = first(known)
    names = [x.name for x in pipeline.learners_of(own.config)]
    agents = {name: deploy.load_agents(own.workdir, name, config, parts) for name in names}
    parts = parts._replace(config=run.config)
    return Base(run, own, task, parts, logs, data, known, risk, agents)


def _report(base: Base, rungs: Sequence[str]) -> None:
    with BatchedEnv(base.task, WORLDS, base.run.config.env.workers) as env:
        with base.run.stage("pairs", "Trajectories, imagined and real"):
            pairs = _pairs(env, base)
        with base.run.stage("truth", "What could not be avoided"):
            truth = _truth(env, base)
    # Rungs that are not asked for now keep what they gave before.
    rows = (base.run.read_json(_REPORT) or {}).get("rungs", {})
    for learner in pipeline.learners_of(base.own.config):
        agents = base.agents[learner.name]
        rows[f"run: {learner.name}"] = _row(base, base.own, learner, agents, truth)
    report = {"rollouts": _agreement(base, pairs), "rungs": rows}
    base.run.write_json(_REPORT, report)
    for rung in rungs:
        with base.run.stage(f"rung/{rung}", f"Rung: {rung}"):
            rows[rung] = _rung(base, rung, pairs, truth)
        base.run.write_json(_REPORT, report)
    base.run.log("\n" + ladder_tables(report))


def _rung(base: Base, rung: str, pairs: Pairs, truth: Truth) -> dict[str, Any]:
    """Trains one rung and plays it."""
    run, config, parts = base.run, base.run.config, base.parts
    data, known = base.data, None
    if rung == "full":
        # Of the violating episodes every other one is kept for what V_h is judged by.
        full = to_dataset([*base.logs.episodes, *base.logs.dropped[1::2]])
        data = data._replace(train=jax.tree.map(jnp.asarray, full))
    else:
        known = _with_fixed(base, rung, pairs)
    context = Context(data.train, data.scale, known)
    # Checkpoints of another number of seeds are none of this one's.
    learner = Learner(f"{rung}-{config.seeds}", known is not None, rung)
    agents = learning.train_policies(run, parts, base.task, context, learner).agent
    steps, episodes = config.train.steps, config.evaluation.episodes
    if not learning.evaluated(run, learner, steps, episodes):
        learning.evaluate_agents(run, parts, base.task, context, agents, learner, steps, episodes)
    return _row(base, run, learner, agents, truth)


def _row(
    base: Base, run: Run, learner: Learner, agents: proco.AgentState, truth: Truth
) -> dict[str, Any]:
    """How a learner played, from its run's results, and what its V_h knows."""
    rows = [
        row
        for row in load_rows(run.workdir / FILE)
        if (row["algorithm"], row["proco"]) == (learner.algorithm, learner.proco)
    ]
    vh = diagnosis.values(base.parts, base.data.scale, agents, truth.obs)
    return {
        **played(summarize(rows)[0]),
        "feasibility": counterfactuals.feasibility_agreement(vh, truth.lost),
    }


def _with_fixed(base: Base, rung: str, pairs: Pairs) -> Knowledge:
    """The knowledge of a rung: its trajectories and labels, and those of the logs."""
    imagined, known = pairs.imagined, base.known
    logged = known.unsafe
    if rung in ("real", "model"):
        data = base.data.train
        logged = jnp.asarray(_by_rule(base, np.asarray(data.obs)))[data.obs_index + 1]
    if rung == "real":
        fixed = imagined._replace(obs=pairs.obs, unsafe=pairs.unsafe, length=_whole(pairs))
    elif rung == "labels":
        unsafe = _by_network(base, pairs.obs[:, 1:])
        fixed = imagined._replace(obs=pairs.obs, unsafe=unsafe, length=_whole(pairs))
    elif rung == "model":
        fixed = imagined._replace(unsafe=_by_rule(base, imagined.obs[:, 1:]))
    else:
        fixed = imagined
    held: Imagined = jax.tree.map(lambda x: jnp.asarray(x)[None], fixed)
    return known._replace(unsafe=logged, fixed=Buffer(held, jnp.int32(1)))


def _whole(pairs: Pairs) -> np.ndarray:
    return np.full(len(pairs.obs), pairs.unsafe.shape[1], np.int32)


def _by_rule(base: Base, obs: np.ndarray) -> np.ndarray:
    """Whether the rule, not widened, calls states `[..., O]` unsafe."""
    flat = obs.reshape(-1, obs.shape[-1])
    return np.reshape(base.risk(flat) >= 0, obs.shape[:-1])


def _by_network(base: Base, obs: np.ndarray) -> np.ndarray:
    flat = obs.reshape(-1, obs.shape[-1])
    found = diagnosis.unsafe_states(base.parts.cost, base.known.cost, flat)
    return found.reshape(obs.shape[:-1])


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
    if path.exists():
        with np.load(path) as stored:
            imagined = Imagined(*(stored[f"imagined_{x}"] for x in Imagined._fields))
            return Pairs(imagined, stored["obs"], stored["unsafe"])
    agent = first(base.agents["proco"])
    pairs = counterfactuals.imagined_and_real(
        env, base.parts, base.known, base.logs, base.data.train, agent
    )
    arrays = {f"imagined_{k}": v for k, v in pairs.imagined._asdict().items()}
    arrays |= {"obs": pairs.obs, "unsafe": pairs.unsafe}
    write_atomic(path, lambda p: np.savez_compressed(p, **arrays))
    return pairs


def _truth(env: BatchedEnv, base: Base) -> Truth:
    path = base.run.workdir / "truth.npz"
    if path.exists():
        with np.load(path) as stored:
            return Truth(stored["obs"], stored["lost"])
    logs = base.logs
    episodes = [*logs.holdout, *logs.dropped[::2]]
    indices = [*logs.split.holdout, *logs.split.dropped[::2]]
    cloned = first(base.agents.get("baseline", base.agents["proco"]))
    truth = counterfactuals.find_truth(
        env,
        base.parts,
        base.data.scale,
        episodes,
        counterfactuals.seeds_of(base.own.config, indices),
        base.risk,
        cloned,
    )
    write_atomic(path, lambda p: np.savez_compressed(p, obs=truth.obs, lost=truth.lost))
    return truth


if __name__ == "__main__":
    command_line.run(main)
