"""The stages of a run, in order, each resumable, each leaving an artefact."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax import cost, deploy, diagnosis, fits, learning, train
from proco_jax.algorithms.proco import AgentState
from proco_jax.data.files import write_text
from proco_jax.data.logs import Logs, load_logs, to_dataset
from proco_jax.envs.tasks import Task, get_task
from proco_jax.fits import Data
from proco_jax.knowledge.grounding import Grounding, ground, label_states
from proco_jax.knowledge.labels import approach_speed
from proco_jax.learning import Learner
from proco_jax.report.cost_picture import draw_cost
from proco_jax.report.maps import states_around_hazard
from proco_jax.report.markdown import write_report
from proco_jax.report.pictures import feasibility_map
from proco_jax.report.render import render_episode
from proco_jax.report.results import FILE, load_rows
from proco_jax.report.tables import print_summary, summarize
from proco_jax.run import Run
from proco_jax.scaling import fit_scale
from proco_jax.train import Context, Parts
from proco_jax.types import LabeledStates

DIAGNOSED = 60
MAPPED_RINGS = ("hazards_lidar", "gremlins_lidar", "pillars_lidar", "vases_lidar")
MAP_SPEED = 0.8


def run_all(run: Run, render: bool = False) -> Path:
    """Runs every stage that is not done yet and writes the report.

    Args:
      run: opened by `open_run`.
      render: draw an episode of each learner as an animation.

    Returns:
      The path of `report.md`.
    """
    task = get_task(run.config.task)
    learners = learners_of(run)
    drawn = all((run.workdir / "pictures" / f"episode_{x.name}.gif").exists() for x in learners)
    if run.read_json("done.json") is None or (render and not drawn):
        grounding = ground(run.config, task.spec, run.workdir, run.log)
        with run.stage("data", "Data"):
            logs = load_logs(run.config, run.workdir, run.log)
        _learn(run, task, logs, grounding, learners, render)
        run.write_json("done.json", {"steps": run.config.train.steps})
    report = write_report(run.workdir)
    print_summary(summarize(load_rows(run.workdir / FILE)))
    run.log(f"report: {report}")
    return report


def run_knowledge(run: Run) -> None:
    """Runs the stages up to the cost network and its report, in the run's own folder."""
    task = get_task(run.config.task)
    grounding = ground(run.config, task.spec, run.workdir, run.log)
    with run.stage("data", "Data"):
        logs = load_logs(run.config, run.workdir, run.log)
    parts = _parts(run, logs)
    _know(run, parts, _device_data(logs), logs, grounding, _risk(grounding))


def learners_of(run: Run) -> tuple[Learner, ...]:
    """PROCO if it is enabled, and the baseline if it is wanted or nothing else is left."""
    baseline = Learner("baseline", False)
    if not run.config.proco.enabled:
        return (baseline,)
    proco = Learner("proco", True)
    return (proco, baseline) if run.config.baseline else (proco,)


def _learn(
    run: Run,
    task: Task,
    logs: Logs,
    grounding: Grounding,
    learners: tuple[Learner, ...],
    render: bool,
) -> None:
    """Everything between the logs and the last row of results."""
    parts = _parts(run, logs)
    data = _device_data(logs)
    actions = data.train.action.shape[1]
    write_text(run.workdir / deploy.SCALE_FILE, deploy.scale_text(parts.spec, data.scale, actions))
    knowledge, risk = None, _risk(grounding)
    if any(learner.proco for learner in learners):
        knowledge = _know(run, parts, data, logs, grounding, risk)
    agents = {}
    for learner in learners:
        context = Context(data.train, data.scale, knowledge if learner.proco else None)
        with run.stage(f"train/{learner.name}", f"Training: {learner.name}"):
            state = learning.train_policies(run, parts, task, context, learner)
        agents[learner.name] = state.agent
        deploy.save_policy(run.workdir, learner.name, run.config.train.steps, state.agent)
        if learner.proco and run.read_json("rollouts.json") is None:
            _report_rollouts(run, data, state)
    with run.stage("evaluation", "Evaluation"):
        for learner in learners:
            steps, episodes = run.config.train.steps, run.config.evaluation.episodes
            if not learning.evaluated(run, learner, steps, episodes):
                learning.evaluate_agents(
                    run, parts, task, data.scale, agents[learner.name], learner, steps, episodes
                )
    with run.stage("diagnosis", "Feasibility report"):
        _diagnose(run, parts, data, logs, risk, agents)
    if render:
        with run.stage("render", "Episodes as animations"):
            _render(run, task, data.scale, parts, agents)


def _know(
    run: Run,
    parts: Parts,
    data: Data,
    logs: Logs,
    grounding: Grounding,
    risk: diagnosis.Risk | None,
) -> train.Knowledge:
    """Dynamics, labels and cost network, each with its report."""
    with run.stage("dynamics", "Dynamics"):
        model = fits.fit_dynamics(run, parts, data)
        if risk is not None and run.read_json("dynamics.json") is None:
            fits.report_dynamics(run, parts, data, model, logs, risk)
    with run.stage("cost", "Knowledge and cost"):
        config = run.config

        def ask(obs: np.ndarray) -> Any:
            disagreement = fits.disagreement(run, parts, data.scale)
            return label_states(grounding, obs, config, config.seed, disagreement)

        labels = fits.label_states(run, parts, data, model, ask, _score(grounding))
        cost_model, report, held_out = fits.fit_cost(run, parts, data.scale, labels)
        if run.read_json("cost.json") is None:
            _draw_cost(run, parts, fits.first(cost_model), held_out, grounding)
            _report_cost(run, parts, cost_model, report, logs, grounding, len(labels.unsafe))
        return fits.knowledge(run, parts, data, model, cost_model)


def _draw_cost(
    run: Run, parts: Parts, model: cost.CostModel, held_out: LabeledStates, grounding: Grounding
) -> None:
    """The cost network against distance and approach speed, and its reliability."""
    scores = diagnosis.cost_scores(parts.cost, model, held_out.obs)
    draw_cost(
        run.workdir / "pictures" / "cost.png",
        -held_out.margin,
        approach_speed(held_out.obs, parts.spec, grounding.rules),
        np.asarray(jax.nn.sigmoid(scores)),
        held_out.unsafe,
        float(jax.nn.sigmoid(model.threshold)),
    )


def _report_cost(
    run: Run,
    parts: Parts,
    cost_model: Any,
    report: dict[str, Any],
    logs: Logs,
    grounding: Grounding,
    labels: int,
) -> None:
    usage = grounding.usage()
    true = diagnosis.cost_agreement(
        parts.cost, fits.first(cost_model), [*logs.holdout, *logs.dropped[:DIAGNOSED]]
    )
    source = {"labeller": grounding.labeller, "model": grounding.model}
    asked = {"labels": labels, "calls": usage.calls, "usd": usage.usd}
    provenance = {"provenance": grounding.provenance}
    run.write_json("cost.json", report | true | asked | source | provenance)


def _diagnose(
    run: Run,
    parts: Parts,
    data: Data,
    logs: Logs,
    risk: diagnosis.Risk | None,
    agents: dict[str, AgentState],
) -> None:
    """Writes `feasibility.json` and draws the map of V_h."""
    safe = [e for e in logs.holdout if not e.cost.any()]
    violating = [e for e in [*logs.holdout, *logs.dropped] if e.cost.any()][:DIAGNOSED]
    report = {
        name: diagnosis.feasibility_report(parts, data.scale, agent, risk, safe, violating)
        for name, agent in agents.items()
    }
    run.write_json("feasibility.json", report)
    _draw_map(run, parts, data, logs, agents)


def _report_rollouts(run: Run, data: Data, state: train.TrainState) -> None:
    """Writes `rollouts.json` from what the first seed's buffer holds at the end."""
    assert state.buffer is not None
    held = jax.tree.map(lambda x: np.asarray(x[0]), state.buffer.data)
    held = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), held)
    rows = np.linspace(0, len(data.train.obs) - 1, 8000).astype(np.int64)
    logged = np.asarray(data.train.obs[rows])
    run.write_json("rollouts.json", diagnosis.rollouts_report(held, logged, data.scale))


def _draw_map(
    run: Run, parts: Parts, data: Data, logs: Logs, agents: dict[str, AgentState]
) -> None:
    """V_h around one obstacle, driving ahead, mean over seeds; none without such a ring."""
    ring = next((f.name for f in logs.spec.rings if f.name in MAPPED_RINGS), None)
    if ring is None:
        return
    xs = ys = np.linspace(-1.0, 1.0, 61)
    base = np.median(logs.episodes[0].obs, axis=0)
    # The Car drives along -y of its own frame.
    ahead = -np.pi / 2 if get_task(logs.task).robot == "Car" else 0.0
    obs = states_around_hazard(logs.spec, base, xs, ys, ahead=ahead, speed=MAP_SPEED, ring=ring)
    flat = obs.reshape(-1, obs.shape[-1])
    maps = {
        name: diagnosis.values(parts, data.scale, agent, flat).mean(axis=0).reshape(obs.shape[:2])
        for name, agent in agents.items()
    }
    path = run.workdir / "pictures" / "feasibility_map.png"
    title = f"One obstacle in {ring}, driving along +x at {MAP_SPEED:g} m/s"
    velocity = (MAP_SPEED, 0.0)
    feasibility_map(path, xs, ys, maps, [(0.0, 0.0)], 0.2, velocity=velocity, title=title)


def _parts(run: Run, logs: Logs) -> Parts:
    return train.make_parts(run.config, logs.spec, logs.episodes[0].action.shape[1])


def _device_data(logs: Logs) -> Data:
    """The split logs on the device. Without held-out episodes the training ones stand in."""
    held = logs.holdout or logs.episodes
    part = to_dataset(logs.episodes)
    scale = fit_scale(logs.spec, part.obs)
    return jax.tree.map(jnp.asarray, Data(part, to_dataset(held), scale))


def _risk(grounding: Grounding) -> diagnosis.Risk | None:
    """The rule's own margin, the trivial score; None where a model labels states alone."""
    if not grounding.rules:
        return None
    return lambda obs: grounding.label(obs).margin


def _score(grounding: Grounding) -> fits.Score | None:
    """The rules' largest margin as a compiled function; None without rules."""
    if not grounding.rules:
        return None
    return lambda obs: jnp.stack([rule.margin(obs) for rule in grounding.rules]).max(axis=0)


def _render(run: Run, task: Task, scale: Any, parts: Parts, agents: dict[str, AgentState]) -> None:
    """An animation of the first evaluation episode of each learner's first seed."""
    for name, agent in agents.items():
        path = run.workdir / "pictures" / f"episode_{name}.gif"
        if path.exists():
            continue
        one = jax.tree.map(lambda x: x[:1], agent)
        act = learning.make_act(run, parts, scale, one, seeds=1)
        render_episode(task, act, run.config.evaluation.seed, path, title=f"{task.name}, {name}")
