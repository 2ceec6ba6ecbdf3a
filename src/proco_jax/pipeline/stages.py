"""The stages of a run, in order, each resumable, each leaving an artefact."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.common.files import write_text
from proco_jax.config.schema import Config
from proco_jax.data.logs import Logs, load_logs, to_dataset
from proco_jax.deployment import policy as deploy
from proco_jax.diagnostics import dynamics_error as foresight
from proco_jax.envs.tasks import Task, get_task
from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.knowledge.grounding import Grounding, ground, label_states
from proco_jax.models.normalizer import fit_scale
from proco_jax.pipeline import artifacts, fits, learning
from proco_jax.pipeline.fits import Data
from proco_jax.pipeline.learning import Learner
from proco_jax.pipeline.workdir import DONE, Run
from proco_jax.report.markdown import write_report
from proco_jax.report.tables import print_summary, summarize
from proco_jax.training import loop as train
from proco_jax.training.loop import Context, Parts


def run_all(run: Run, render: bool = False) -> Path:
    """Runs every stage that is not done yet and writes the report.

    Args:
      run: opened by `open_run`.
      render: draw an episode of each learner as an animation.

    Returns:
      The path of `report.md`.
    """
    task = get_task(run.config.task)
    learners = learners_of(run.config)
    drawn = all((run.workdir / "pictures" / f"episode_{x.name}.gif").exists() for x in learners)
    if run.read_json(DONE) is None or (render and not drawn):
        grounding = ground(run.config, task.spec, run.workdir, run.log)
        with run.stage("data", "Data"):
            logs = load_logs(run.config, run.workdir, run.log)
        _learn(run, task, logs, grounding, learners, render)
        run.write_json(DONE, {"steps": run.config.train.steps})
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
    parts = make_parts(run, logs)
    know(run, parts, device_data(logs), logs, grounding, risk_of(grounding))


def learners_of(config: Config) -> tuple[Learner, ...]:
    """PROCO if it is enabled, and the baseline if it is wanted or nothing else is left."""
    # With 0, rewards have no say in the weights of actions.
    rewarded = config.agent.reward_temperature > 0
    algorithm = learning.ALGORITHM if rewarded else learning.CLONING
    baseline = Learner("baseline", False, algorithm)
    if not config.proco.enabled:
        return (baseline,)
    proco = Learner(deploy.PROCO, True, algorithm)
    return (proco, baseline) if config.baseline else (proco,)


def _learn(
    run: Run,
    task: Task,
    logs: Logs,
    grounding: Grounding,
    learners: tuple[Learner, ...],
    render: bool,
) -> None:
    """Everything between the logs and the last row of results."""
    parts = make_parts(run, logs)
    data = device_data(logs)
    actions = data.train.action.shape[1]
    write_text(run.workdir / deploy.SCALE_FILE, deploy.scale_text(parts.spec, data.scale, actions))
    knowledge, risk = None, risk_of(grounding)
    if any(learner.proco for learner in learners):
        knowledge = know(run, parts, data, logs, grounding, risk)
    contexts = {
        x.name: Context(data.train, data.scale, knowledge if x.proco else None) for x in learners
    }
    agents = {}
    for learner in learners:
        context = contexts[learner.name]
        with run.stage(f"train/{learner.name}", f"Training: {learner.name}"):
            state = learning.train_policies(run, parts, task, context, learner)
        agents[learner.name] = state.agent
        known = context.knowledge
        deploy.save_policy(
            run.workdir,
            learner.name,
            run.config.train.steps,
            state.agent,
            None if known is None else known.model,
        )
        if state.buffer is not None and run.read_json("rollouts.json") is None:
            artifacts.report_rollouts(run, data, state)
    if knowledge is not None and run.config.evaluation.foreseen:
        with run.stage("foreseen", "What the model foresees of the policies"):
            score, proco = _score(grounding), agents[deploy.PROCO]
            artifacts.report_foreseen(run, parts, data, logs, knowledge, score, proco)
    played = {x.name: deployed_parts(run, parts, x) for x in learners}
    with run.stage("evaluation", "Evaluation"):
        for learner in learners:
            steps, episodes = run.config.train.steps, run.config.evaluation.episodes
            if not learning.evaluated(run, learner, steps, episodes):
                own, agent = played[learner.name], agents[learner.name]
                context = contexts[learner.name]
                learning.evaluate_agents(run, own, task, context, agent, learner, steps, episodes)
    with run.stage("diagnosis", "Feasibility report"):
        artifacts.report_feasibility(run, parts, data, logs, risk, agents)
    if render:
        with run.stage("render", "Episodes as animations"):
            artifacts.render(run, task, contexts, played, agents)


def know(
    run: Run,
    parts: Parts,
    data: Data,
    logs: Logs,
    grounding: Grounding,
    risk: foresight.Risk | None,
) -> train.Knowledge:
    """Dynamics, labels and cost network, each with its report."""
    with run.stage("dynamics", "Dynamics"):
        model = fits.fit_dynamics(run, parts, data)
        if risk is not None and run.read_json("dynamics.json") is None:
            fits.report_dynamics(run, parts, data, model, logs, risk)
    with run.stage("cost", "Knowledge and cost"):
        config = run.config

        def ask(obs: np.ndarray) -> Any:
            doubt = fits.doubt(run, parts, data.scale)
            return label_states(grounding, obs, config, config.seed, doubt)

        labels = fits.label_states(run, parts, data, model, ask, _score(grounding))
        cost_model, report, held_out = fits.fit_cost(run, parts, data.scale, labels)
        if run.read_json("cost.json") is None:
            artifacts.draw_cost_network(run, parts, fits.first(cost_model), held_out, grounding)
            artifacts.report_cost(
                run, parts, cost_model, report, logs, grounding, len(labels.unsafe)
            )
        return fits.knowledge(run, parts, data, model, cost_model)


def make_parts(run: Run, logs: Logs) -> Parts:
    """The networks of a run on these logs."""
    return train.make_parts(run.config, logs.spec, logs.episodes[0].action.shape[1])


def deployed_parts(run: Run, parts: Parts, learner: Learner) -> Parts:
    """The networks of a run, PROCO's with the bounds on Q_h that it is deployed with."""
    if not learner.proco:
        return parts
    return parts._replace(config=deploy.deployed(run.workdir, parts.config))


def device_data(logs: Logs) -> Data:
    """The split logs on the device. Without held-out episodes the training ones stand in."""
    held = logs.holdout or logs.episodes
    part = to_dataset(logs.episodes)
    scale = fit_scale(logs.spec, part.obs)
    return jax.tree.map(jnp.asarray, Data(part, to_dataset(held), scale))


def risk_of(grounding: Grounding) -> foresight.Risk | None:
    """The rule's own margin, the trivial score; None where a model labels states alone."""
    if not grounding.rules:
        return None
    return lambda obs: grounding.label(obs).margin


def _score(grounding: Grounding) -> fits.Score | None:
    """The rules' largest margin as a compiled function; None without rules."""
    if not grounding.rules:
        return None
    return lambda obs: jnp.stack([rule.margin(obs) for rule in grounding.rules]).max(axis=0)
