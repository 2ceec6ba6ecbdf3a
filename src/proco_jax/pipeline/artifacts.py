"""What the stages leave for a person: reports and pictures of costs, rollouts and feasibility."""

from typing import Any

import jax
import numpy as np

from proco_jax.algorithms.proco import AgentState
from proco_jax.data.logs import Logs
from proco_jax.deployment import violation_forecast as foreseen
from proco_jax.diagnostics import critics as diagnosis
from proco_jax.diagnostics import dynamics_error as foresight
from proco_jax.envs.tasks import Task, get_task
from proco_jax.evaluation.episodes import episode_seeds
from proco_jax.knowledge.grounding import Grounding
from proco_jax.knowledge.labelers import approach_speed
from proco_jax.models import cost
from proco_jax.pipeline import fits, learning
from proco_jax.pipeline.fits import Data
from proco_jax.pipeline.workdir import Run
from proco_jax.report.cost_picture import draw_cost
from proco_jax.report.hazard_map_states import states_around_hazard
from proco_jax.report.pictures import feasibility_map
from proco_jax.report.render import render_episode
from proco_jax.training import loop as train
from proco_jax.training.loop import Parts
from proco_jax.types import LabeledStates

# Trajectories of the dropped ones that a diagnosis reads.
DIAGNOSED = 60
MAPPED_RINGS = ("hazards_lidar", "gremlins_lidar", "pillars_lidar", "vases_lidar")
MAP_SPEED = 0.8


def report_cost(
    run: Run,
    parts: Parts,
    cost_model: Any,
    report: dict[str, Any],
    logs: Logs,
    grounding: Grounding,
    labels: int,
) -> None:
    """Writes `cost.json`: recall and precision, by labels and by true costs, and who labelled."""
    usage = grounding.usage()
    true = diagnosis.cost_agreement(
        parts.cost, fits.first(cost_model), [*logs.holdout, *logs.dropped[:DIAGNOSED]]
    )
    source = {"labeller": grounding.labeller, "model": grounding.model}
    asked = {"labels": labels, "calls": usage.calls, "usd": usage.usd}
    provenance = {"provenance": grounding.provenance}
    run.write_json("cost.json", report | true | asked | source | provenance)


def draw_cost_network(
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


def report_rollouts(run: Run, data: Data, state: train.TrainState) -> None:
    """Writes `rollouts.json` from what the first seed's buffer holds at the end."""
    assert state.buffer is not None
    held = jax.tree.map(lambda x: np.asarray(x[0]), state.buffer.data)
    held = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), held)
    rows = np.unique(np.linspace(0, len(data.train.obs) - 1, 8000).astype(np.int64))
    logged = np.asarray(data.train.obs[rows])
    run.write_json("rollouts.json", diagnosis.rollouts_report(held, logged, data.scale))


def report_feasibility(
    run: Run,
    parts: Parts,
    data: Data,
    logs: Logs,
    risk: foresight.Risk | None,
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
    draw_feasibility(run, parts, data, logs, agents)


def report_foreseen(
    run: Run,
    parts: Parts,
    data: Data,
    logs: Logs,
    known: train.Knowledge,
    score: fits.Score | None,
    agents: AgentState,
) -> None:
    """Writes `foreseen.json`: how often PROCO's policies violate, by the model alone.

    Without a rule the cost network, which is wider, says what violates.
    What `agent.risk` made of it stays as it is when a run goes on.
    """
    if run.read_json(foreseen.FILE) is not None:
        return
    network = fits.first(known.cost) if run.config.dynamics.per_seed else known.cost
    rows = foreseen.table(
        parts,
        data.scale,
        known.model,
        agents,
        (lambda o: cost.unsafe(parts.cost, network, o))
        if score is None
        else lambda o: score(o) >= 0,
        np.concatenate([e.obs[:-1] for e in logs.holdout or logs.episodes]),
        run.config.evaluation.foreseen,
        get_task(logs.task).episode_steps,
    )
    run.write_json(foreseen.FILE, {foreseen.ROWS: rows})
    if risk := run.config.agent.risk:
        deployed = next(row for row in rows if row["deployed"])
        word = "at most" if foreseen.within(deployed, risk) else "NOT within"
        run.log(
            f"deployed: Q_h up to {deployed['feasible_up_to']:g}, a way out above "
            f"{deployed['escape_above']:g}; {word} the risk of {risk:g} is foreseen"
        )


def draw_feasibility(
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


def render(
    run: Run,
    task: Task,
    contexts: dict[str, train.Context],
    parts: dict[str, Parts],
    agents: dict[str, AgentState],
) -> None:
    """An animation of the first evaluation episode of each learner's first seed."""
    seed = episode_seeds(run.config, 1, 1)[0][0]
    for name, agent in agents.items():
        path = run.workdir / "pictures" / f"episode_{name}.gif"
        if path.exists():
            continue
        one = jax.tree.map(lambda x: x[:1], agent)
        act = learning.make_act(run, parts[name], contexts[name], one, seeds=1)
        render_episode(task, act, seed, path, title=f"{task.name}, {name}")
