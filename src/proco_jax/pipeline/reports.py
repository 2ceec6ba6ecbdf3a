"""Reports and pictures of the parts of a run: JSON files and PNG files in the workdir."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from proco_jax.algorithms import feasibility
from proco_jax.augmentation.buffer import Buffer
from proco_jax.common.checksums import MADE_OF
from proco_jax.config.schema import Config
from proco_jax.data.logs import Logs
from proco_jax.diagnostics import critics as diagnostics
from proco_jax.diagnostics import dynamics_error
from proco_jax.envs.tasks import TASKS, Task
from proco_jax.evaluation.episodes import Player, episode_seeds
from proco_jax.knowledge.grounding import Grounding
from proco_jax.knowledge.labelers import approach_speed
from proco_jax.models import dynamics
from proco_jax.pipeline.policies import Trained
from proco_jax.pipeline.workdir import Run
from proco_jax.pipeline.world_model import Data, FittedCost, Nets
from proco_jax.report.cost_picture import draw_cost
from proco_jax.report.hazard_map_states import states_around_hazard
from proco_jax.report.pictures import feasibility_map
from proco_jax.report.render import render_episode
from proco_jax.training.loop import critics_of

# Dropped trajectories that a diagnosis reads at most.
DIAGNOSED = 60
# Open-loop starts lie within this distance of the unsafe set, in the rule's unit.
NEAR = 0.4
MAPPED_RINGS = ("hazards_lidar", "gremlins_lidar", "pillars_lidar", "vases_lidar")
MAP_SPEED = 0.8


def report_dynamics(
    run: Run,
    nets: Nets,
    data: Data,
    model: dynamics.Model,
    logs: Logs,
    margin: dynamics_error.Margin,
    unit: str,
    made_of: str,
) -> None:
    """Writes `dynamics.json`: one-step errors by sensor group, and open-loop errors.

    Args:
      margin: of the rules.
      unit: of the margin.
      made_of: digest of model and rules.
    """
    near = nearness(run.config, logs, margin)
    open_loop, by_ring = [], []
    for name, episodes in (("violating, unseen", logs.dropped), ("safe, held out", logs.holdout)):
        rows = dynamics_error.open_loop(nets.dynamics, model, margin, episodes[:DIAGNOSED], near)
        open_loop += [{"episodes": name} | row for row in rows]
        rings = dynamics_error.open_loop_by_ring(nets.dynamics, model, episodes[:DIAGNOSED])
        by_ring += [{"episodes": name} | row for row in rings]
    # Without rings both have one entry that nothing reads.
    by_ring_name = [f.name for f in nets.spec.rings]
    rests = zip(by_ring_name, np.asarray(model.resting), strict=False)
    weights = zip(by_ring_name, np.asarray(model.approach), strict=False)
    earned = ", ".join(f"{weight:.3g} per m nearer to {name}" for name, weight in weights)
    report = {
        "r2": dynamics_error.one_step_r2(nets.dynamics, model, data.train, data.holdout),
        "open_loop": open_loop,
        "open_loop_by_ring": by_ring,
        "disagreement_limit": float(model.limit),
        "resting_objects": ", ".join(name for name, rest in rests if rest) or "none",
        "usual_reward": earned if np.any(model.approach) else "predicted by the networks",
        "near": near,
        "unit": unit,
        MADE_OF: made_of,
    }
    run.write_json("dynamics.json", report)


def nearness(config: Config, logs: Logs, margin: dynamics_error.Margin) -> float:
    """Up to which distance from the unsafe set states count as near, in the rule's unit."""
    if not config.system.file:
        return NEAR
    # In the units of a system of the user's own: the quarter of the logs that is nearest.
    logged = np.concatenate([e.obs for e in logs.episodes])
    return max(float(np.quantile(-margin(logged), 0.25)), 1e-6)


def report_cost(
    run: Run, nets: Nets, fitted: FittedCost, logs: Logs, grounding: Grounding, made_of: str
) -> None:
    """Writes `cost.json` (recall, precision, provenance of the labels) and draws the network.

    Args:
      made_of: digest of network and rules.
    """
    usage = grounding.usage()
    true = diagnostics.cost_agreement(
        nets.cost, fitted.model, [*logs.holdout, *logs.dropped[:DIAGNOSED]]
    )
    run.write_json(
        "cost.json",
        {
            **fitted.report,
            **true,
            "labels": fitted.labels,
            "calls": usage.calls,
            "usd": usage.usd,
            "labeler": grounding.labeler,
            "model": grounding.model,
            "provenance": grounding.provenance,
            "warning": grounding.warning,
            "rules": {
                rule.text: {"logged_unsafe": share.logged, "varied_unsafe": share.varied}
                for rule, share in zip(grounding.rules, grounding.shares, strict=True)
            },
            MADE_OF: made_of,
        },
    )
    held_out = fitted.held_out
    scores = diagnostics.cost_scores(nets.cost, fitted.model, held_out.obs)
    draw_cost(
        run.workdir / "pictures" / "cost.png",
        -held_out.margin,
        approach_speed(held_out.obs, nets.spec, grounding.rules),
        np.asarray(jax.nn.sigmoid(scores)),
        held_out.unsafe,
        float(jax.nn.sigmoid(fitted.model.threshold)),
    )


def report_rollouts(run: Run, data: Data, trained: Sequence[Trained]) -> None:
    """Writes `rollouts.json` from what the first seed's buffers hold at the end of training."""
    rows = np.unique(np.linspace(0, len(data.train.obs) - 1, 8000).astype(np.int64))
    logged = np.asarray(data.train.obs)[rows]
    report = {}
    for policy in trained:
        held = policy.state.augmentation
        if isinstance(held, Buffer):
            first = jax.tree.map(lambda x: np.asarray(x[0]), held.data)
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), first)
            report[policy.name] = diagnostics.rollouts_report(flat, logged, data.normalizer)
    run.write_json("rollouts.json", report)


def report_feasibility(
    run: Run,
    data: Data,
    logs: Logs,
    margin: dynamics_error.Margin | None,
    trained: Sequence[Trained],
) -> None:
    """Writes `feasibility.json` and draws the map of V_h, for all trainings that have critics."""
    safe = [e for e in logs.holdout if not e.cost.any()]
    violating = [e for e in [*logs.holdout, *logs.dropped] if e.cost.any()][:DIAGNOSED]
    critics = {
        policy.name: (policy.program.feasibility, found.params)
        for policy in trained
        if (found := critics_of(policy.program, policy.state)) is not None
    }
    report = {
        name: diagnostics.feasibility_report(nets, params, data.normalizer, margin, safe, violating)
        for name, (nets, params) in critics.items()
    }
    run.write_json("feasibility.json", report)
    draw_feasibility(run, data, logs, critics)


def draw_feasibility(
    run: Run,
    data: Data,
    logs: Logs,
    critics: Mapping[str, tuple[feasibility.Networks, Any]],
) -> None:
    """V_h around one obstacle, driving ahead, mean over seeds; needs critics and such a ring."""
    ring = next((f.name for f in logs.spec.rings if f.name in MAPPED_RINGS), None)
    if ring is None or not critics:
        return
    xs = ys = np.linspace(-1.0, 1.0, 61)
    base = np.median(logs.episodes[0].obs, axis=0)
    # The Car drives along -y of its own frame.
    task = TASKS.get(logs.task)
    ahead = -np.pi / 2 if task is not None and task.robot == "Car" else 0.0
    obs = states_around_hazard(logs.spec, base, xs, ys, ahead=ahead, speed=MAP_SPEED, ring=ring)
    flat = obs.reshape(-1, obs.shape[-1])
    maps = {
        name: diagnostics.values(nets, params, data.normalizer, flat)
        .mean(axis=0)
        .reshape(obs.shape[:2])
        for name, (nets, params) in critics.items()
    }
    path = run.workdir / "pictures" / "feasibility_map.png"
    title = f"One obstacle in {ring}, driving along +x at {MAP_SPEED:g} m/s"
    velocity = (MAP_SPEED, 0.0)
    feasibility_map(path, xs, ys, maps, [(0.0, 0.0)], 0.2, velocity=velocity, title=title)


def render(run: Run, task: Task, players: Mapping[str, Player]) -> None:
    """An animation of the first evaluation episode of the first seed of each policy.

    Args:
      players: of one policy each, by the name of the picture.
    """
    seed = episode_seeds(run.config, 1, 1)[0][0]
    for name, player in players.items():
        path = episode_picture(run, name)
        if not path.exists():
            render_episode(task, player, seed, path, title=f"{task.name}, {name}")


def episode_picture(run: Run, name: str) -> Any:
    """The path of a policy's animation."""
    return run.workdir / "pictures" / f"episode_{name}.gif"
