"""All stages of a run, in order; each can be resumed, each leaves files in the workdir.

logs -> dynamics -> labels -> cost network        (world model, shared through the store)
logs + world model -> policies                     (each algorithm with each augmentation; that of
                                                    PROCO's own is improved in the world model)
policies -> violation forecast -> episodes         (each policy under each shield) -> report
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.algorithms import find_maker
from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.common import checksums, sharding
from proco_jax.common.batching import in_blocks
from proco_jax.common.checksums import MADE_OF
from proco_jax.common.files import sha256, write_text
from proco_jax.common.shipped import find_shipped
from proco_jax.config.schema import ALGORITHMS, ANY_REWARD, RULES_ALONE, Config, replaced
from proco_jax.data.logs import Logs, load_logs, to_dataset, verify_logs
from proco_jax.deployment.acting import Deployed, member
from proco_jax.deployment.calibration import forecast_table, least_reward, planner_margin
from proco_jax.deployment.policy import FOLDER, save_policies
from proco_jax.deployment.shield import SHIELD_VERSION, Judge, ShieldState
from proco_jax.diagnostics import dynamics_error
from proco_jax.envs.tasks import Task
from proco_jax.evaluation.episodes import make_evaluation_env
from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.knowledge.grounding import Grounding, check_knowledge, ground
from proco_jax.knowledge.rule_checks import LoggedStates
from proco_jax.models import bonus, cost, dynamics, termination
from proco_jax.models.cost import CostModel
from proco_jax.models.normalizer import fit_normalizer
from proco_jax.pipeline import offline, policies, reports
from proco_jax.pipeline.imagined_episodes import IMPROVED, imagine_episodes, learns_from_episodes
from proco_jax.pipeline.policies import Learner, Trained
from proco_jax.pipeline.store import digest
from proco_jax.pipeline.workdir import CONFIG, DESCRIPTION, DONE, TIMING, Run
from proco_jax.pipeline.world_model import (
    Data,
    FittedCost,
    Nets,
    fit_accurate_cost,
    fit_bonus,
    fit_cost,
    fit_dynamics,
    fit_termination,
    label,
    make_nets,
    make_world,
    rule_score,
)
from proco_jax.report.markdown import write_report
from proco_jax.report.tables import print_summary, summarize
from proco_jax.rules.rule import one_unit
from proco_jax.system.description import task_of
from proco_jax.training.loop import Program, make_program
from proco_jax.types import TaskSpec

FORECAST = "violation_forecast.json"
THRESHOLDS = ("qh_threshold", "planner_threshold")
# Steps ahead for which the planner's margin covers the errors of the model. It plans anew at each.
MARGIN_STEPS = 10


class Fitted(NamedTuple):
    """The world model of a run.

    Attributes:
      dynamics: the fitted ensemble.
      bonus: the fitted event model of rare bonuses.
      termination: the fitted classifier of states that end an episode; None where none does.
      cost: the fitted cost network.
      accurate_cost: the one that is not conservative; None if no policy is improved.
      inputs: content hashes of those that there are, by kind.
    """

    dynamics: dynamics.Model
    bonus: bonus.BonusModel
    termination: termination.TerminationModel | None
    cost: FittedCost
    accurate_cost: CostModel | None
    inputs: dict[str, Any]


def run_all(run: Run, render: bool = False) -> Path:
    """Runs every stage that is not done yet and writes the report.

    Args:
      run: opened by `open_run`.
      render: draw an episode of each policy as an animation.

    Returns:
      The path of `report.md`.
    """
    make_results(run, render)
    report = write_report(run.workdir)
    if (run.workdir / FILE).exists():
        print_summary(summarize(load_rows(run.workdir / FILE)))
    run.log(f"report: {report}")
    return report


def make_results(run: Run, render: bool = False, evaluate: bool = True) -> None:
    """Runs every stage that is not done yet, without the report.

    Args:
      run: opened by `open_run`.
      render: draw an episode of each policy as an animation.
      evaluate: False stops once the policies are saved; the run is then not finished.
    """
    task = task_of(run.config)
    if run.config.data.verify == "full":
        verify_logs(run.config, run.workdir, run.log)
    if render and run.config.system.file:
        run.log("--render: there are no pictures of the states of a system of your own")
        render = False
    if finished(run) and (not render or _rendered(run)):
        return
    # As they are when they are read: they may be edited while the run goes on.
    sources = _sources(run.config)
    # The user's own algorithms and environments that cannot be used are an error before any work.
    for name in run.config.algorithms:
        find_maker(name)
    if evaluate and run.config.system.env:
        make_evaluation_env(run.config, task, 1, 1).close()
    logs, grounding = load_inputs(run)
    _learn_and_evaluate(run, task, logs, grounding, render, evaluate)
    if not evaluate:
        return
    run.metrics.seal()
    done = {"steps": run.config.train.steps, "files": _made(run)}
    run.write_json(DONE, done | {"sources": sources})


def load_inputs(run: Run) -> tuple[Logs, Grounding | None]:
    """The logs and the grounded knowledge; None without an augmentation.

    Without an augmentation no knowledge is used, and no language model is asked.
    """
    if set(run.config.augmentations) == {"none"}:
        return _load_logs(run), None
    return load_and_ground(run)


def _keep_description(run: Run) -> None:
    """Copies the description of the user's own system into the workdir, which fixes it."""
    text = find_shipped(run.config.system.file).read_text(encoding="utf-8")
    path = run.workdir / DESCRIPTION
    if not path.exists():
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{run.config.system.file} differs from {path}, with which the run began; restore it, "
            "or start a new run with another --workdir"
        )


def finished(run: Run) -> bool:
    """Whether the run is done and all that it made is there; what was removed is made anew.

    Raises:
      ValueError: if a file of the user's own has changed since.
    """
    missing = _missing(run)
    if missing:
        run.log(f"{', '.join(missing)}: not there any more; made anew")
    return missing == []


def check_made(run: Run) -> None:
    """Checks that a run is finished, for commands that go on from it.

    Raises:
      ValueError: if something is missing, or a file of the user's own has changed.
    """
    missing = _missing(run)
    if missing != []:
        lost = "finished run" if missing is None else ", ".join(missing)
        raise ValueError(
            f"{run.workdir}: found no {lost}; python -m proco_jax.main with the same --config and "
            "--workdir makes what is missing"
        )


def _missing(run: Run) -> list[str] | None:
    """The files that a finished run lacks; None if it is not finished.

    Raises:
      ValueError: if a file of the user's own has changed.
    """
    if run.config.system.file:
        _keep_description(run)
    check_sources(run.config, run.workdir)
    done = run.read_json(DONE)
    if done is None:
        return None
    # Runs of earlier versions did not list them.
    return [name for name in done.get("files") or () if not (run.workdir / name).exists()]


def check_sources(config: Config, workdir: Path) -> None:
    """Checks that the files of the user's own are those with which a run was made, if it is
    finished.

    Raises:
      ValueError: if one has changed.
    """
    done = checksums.read_json(workdir / DONE)
    before = {} if done is None else done.get("sources") or {}
    for name, found in _sources(config).items():
        then = before.get(name)
        # A file that is or was not there does not keep anyone from seeing the results.
        if found is not None and then is not None and then != found:
            raise ValueError(
                f"{name} has changed since the run in {workdir} was made with it; restore the file,"
                " remove that folder to make the run again, or give another --workdir"
            )


def check_episodes(config: Config, command: str) -> None:
    """Checks that policies can be evaluated in real episodes, for commands that compare these.

    Raises:
      ValueError: if the config has no environment.
    """
    if config.system.file and not config.system.env:
        raise ValueError(
            f"--config.system.env: found none, but {command} compares policies by their episodes "
            "in an environment; without one, see the section 'Offline evaluation' in the report "
            "of a run"
        )


def _sources(config: Config) -> dict[str, str | None]:
    """Digests of the files of the user's own on which results depend; None for one that is not
    there."""
    found = {x: policies.source_digest(x) for x in config.algorithms if x not in ALGORITHMS}
    if config.knowledge.file and set(config.augmentations) != {"none"}:
        path = find_shipped(config.knowledge.file)
        found[config.knowledge.file] = sha256(path) if path.is_file() else None
    return found


def _made(run: Run) -> list[str]:
    """The files of the workdir that can be made anew without training."""
    others = {CONFIG, TIMING, DONE, checksums.NAME}
    found = [path.name for path in run.workdir.glob("*.json") if path.name not in others]
    policies_ = run.workdir.glob(f"{FOLDER}/[!.]*")
    return sorted([*found, *(path.relative_to(run.workdir).as_posix() for path in policies_)])


def run_knowledge(run: Run) -> None:
    """Runs the stages up to the cost network and its report."""
    logs, grounding = load_and_ground(run)
    fit_world_model(run, make_nets(run.config, logs.spec), device_data(logs), logs, grounding)


def load_and_ground(run: Run) -> tuple[Logs, Grounding]:
    """The logs, and the knowledge grounded in them.

    What is wrong with the knowledge alone is an error before the logs are collected or read. Its
    rules are then compared with the logs, which are safe if no episode of them has a cost.
    """
    config = run.config
    # Collected data have the fields of the task, those of a system of the user's own the fields of
    # its description; those of another dataset are known once it is read.
    collected = config.data.source == "collect" or bool(config.system.file)
    check_knowledge(config, task_of(config).spec if collected else None, run.workdir)
    logs = _load_logs(run)
    obs = np.concatenate([e.obs for e in logs.episodes])
    logged = LoggedStates(obs, safe=not any(e.cost.any() for e in logs.episodes))
    return logs, ground(config, logs.spec, run.workdir, run.log, logged)


def learners_of(config: Config) -> tuple[Learner, ...]:
    """Every algorithm with every augmentation, those with an augmentation first."""
    order = sorted(config.augmentations, key=lambda name: name == "none")
    return tuple(Learner(a, b) for a in config.algorithms for b in order)


def fit_world_model(run: Run, nets: Nets, data: Data, logs: Logs, grounding: Grounding) -> Fitted:
    """Dynamics, labels and cost network, each with its report, and the models of events."""
    with run.stage("dynamics", "Dynamics"):
        model, dynamics_folder = fit_dynamics(run, nets, data)
        inputs = {"dynamics": dynamics_folder.name}
        events, bonus_folder = fit_bonus(run, nets, data, model)
        # Of the trainings the improvement in imagination alone reads it.
        if run.config.proco.imagination.updates:
            inputs["bonus"] = bonus_folder.name
        ending, ending_folder = fit_termination(run, nets, data)
        if ending_folder is not None:
            inputs["termination"] = ending_folder.name
        margin = margin_of(grounding)
        made_of = _digest_with_rules(grounding, dynamics=dynamics_folder.name)
        if margin is not None and not _is_there(run, "dynamics.json", made_of):
            unit = grounding.rules[0].unit
            reports.report_dynamics(run, nets, data, model, logs, margin, unit, made_of)
    with run.stage("cost", "Knowledge and cost"):
        labels, labels_folder = label(run, nets, data, model, dynamics_folder, grounding)
        fitted = fit_cost(run, nets, data.normalizer, labels, labels_folder)
        made_of = _digest_with_rules(grounding, cost=fitted.folder.name)
        if not _is_there(run, "cost.json", made_of):
            reports.report_cost(run, nets, fitted, logs, grounding, made_of)
        inputs["cost"] = fitted.folder.name
        accurate = None
        if run.config.proco.imagination.updates:
            labeled = (labels, labels_folder, grounding.rules)
            accurate, folder = fit_accurate_cost(run, nets, data.normalizer, *labeled)
            inputs["accurate_cost"] = folder.name
    return Fitted(model, events, ending, fitted, accurate, inputs)


def _digest_with_rules(grounding: Grounding, **artifacts: str) -> str:
    """Digest of what a report on artifacts, given by the hash of each kind, is made of."""
    return digest({**artifacts, "rules": [rule.text for rule in grounding.rules]})


def _is_there(run: Run, name: str, made_of: str) -> bool:
    """Whether a report is there, of what is there now; earlier versions did not say of what."""
    report = run.read_json(name)
    return report is not None and report.get(MADE_OF, made_of) == made_of


def make_contexts(
    run: Run, nets: Nets, data: Data, fitted: Fitted | None, augmentations: Sequence[str]
) -> dict[str, tuple[Context, dict[str, Any]]]:
    """What trainings with each augmentation read, and the hashes of what it is made of."""
    found: dict[str, tuple[Context, dict[str, Any]]] = {}
    for name in augmentations:
        world = None
        inputs: dict[str, Any] = {"logs": data.digest}
        if run.config.system.file:
            inputs["episode_steps"] = task_of(run.config).episode_steps
        if name != "none":
            assert fitted is not None
            knows = name != "control"
            cost_model = fitted.cost.model if knows else None
            accurate = fitted.accurate_cost if knows else None
            models = (fitted.dynamics, cost_model, fitted.bonus, fitted.termination, accurate)
            world = make_world(run.config, nets, data, *models)
            costs = () if knows else ("cost", "accurate_cost")
            inputs |= {kind: x for kind, x in fitted.inputs.items() if kind not in costs}
        found[name] = Context(data.train, data.normalizer, world), inputs
    return found


def learner_context(
    run: Run,
    task: Task,
    spec: TaskSpec,
    contexts: dict[str, tuple[Context, dict[str, Any]]],
    learner: Learner,
) -> tuple[Context, dict[str, Any]]:
    """What the training of a learner reads, and the hashes of what it is made of.

    Where it learns from imagined episodes, the policies that imagine them are trained first.

    Args:
      contexts: by augmentation; those with imagined episodes are added, for further learners.
    """
    config = run.config
    context, inputs = contexts[learner.augmentation]
    if not learns_from_episodes(config, learner):
        return context, inputs
    key = f"{learner.augmentation}, with episodes"
    if key not in contexts:
        first = Learner(IMPROVED, learner.augmentation)
        if IMPROVED not in config.algorithms:
            # Its policies are no result of this run.
            config = replaced(config, {"evaluation.interim_episodes": 0})
        own = dataclasses.replace(run, config=config)
        program = make_program(config, spec, *first)
        title = f"Training: {IMPROVED}, augmentation {first.augmentation}, for imagined episodes"
        with run.stage(f"train/{first.algorithm}-{first.augmentation}", title):
            improved = policies.train_policies(own, program, task, context, first, inputs)
        with run.stage(f"episodes/{first.augmentation}", "Imagined episodes"):
            context, episodes = imagine_episodes(run, improved, context)
        contexts[key] = context, inputs | {"episodes": episodes}
    return contexts[key]


def task_spec(task: Task, config: Config, logs: Logs) -> TaskSpec:
    """What algorithms must know of the task, with the fields that the logs have."""
    actions = logs.episodes[0].action.shape[1]
    return TaskSpec(logs.spec, actions, task.episode_steps, config.cost_limit)


def device_data(logs: Logs) -> Data:
    """The split logs on the device. Without held-out episodes the training ones stand in."""
    train = to_dataset(logs.episodes)
    normalizer = fit_normalizer(logs.spec, train.obs)
    holdout = to_dataset(logs.holdout or logs.episodes)
    train, holdout, normalizer = jax.tree.map(jnp.asarray, (train, holdout, normalizer))
    # Kinds and reach of fields decide networks and rules, whatever the numbers are.
    found = digest({"logs": logs.digest, "fields": logs.spec.to_json()})
    return Data(train, holdout, normalizer, found)


def margin_of(grounding: Grounding | None) -> dynamics_error.Margin | None:
    """The rules' signed margin; None without rules, or if their units differ."""
    if grounding is None or len({rule.unit for rule in grounding.rules}) != 1:
        return None
    return lambda obs: grounding.label(obs).margin


def _load_logs(run: Run) -> Logs:
    with run.stage("data", "Data"):
        return load_logs(run.config, run.workdir, run.log)


def _learn_and_evaluate(
    run: Run,
    task: Task,
    logs: Logs,
    grounding: Grounding | None,
    render: bool,
    evaluate: bool,
) -> None:
    """Everything between the logs and the last row of results."""
    config, spec = run.config, task_spec(task, run.config, logs)
    programs = _make_programs(config, spec)
    nets, data = make_nets(config, logs.spec), device_data(logs)
    fitted = None
    if grounding is not None:
        fitted = fit_world_model(run, nets, data, logs, grounding)
    contexts = make_contexts(run, nets, data, fitted, config.augmentations)
    trained = []
    for learner, program in programs.items():
        context, inputs = learner_context(run, task, spec, contexts, learner)
        name = f"{program.algorithm.name}, augmentation {learner.augmentation}"
        with run.stage(f"train/{learner.algorithm}-{learner.augmentation}", f"Training: {name}"):
            trained.append(policies.train_policies(run, program, task, context, learner, inputs))
    reports.report_rollouts(run, data, trained)
    with run.stage("feasibility", "Feasibility report"):
        reports.report_feasibility(run, data, logs, margin_of(grounding), trained)
    shields = {}
    if grounding is not None and set(config.shields) != {"none"}:
        with run.stage("forecast", "Violation forecast"):
            shields = _calibrated_shields(run, nets, logs, grounding, contexts, trained)
    deployed = {}
    for policy in trained:
        context = contexts[policy.learner.augmentation][0]
        shield = shields.get(_shield_donor(policy, trained))
        deployed[policy.name] = policies.deploy(policy, context, shield)
        algorithm, augmentation = policy.learner
        save_policies(run.workdir, policy.program, algorithm, augmentation, deployed[policy.name])
    if not evaluate:
        return
    if config.system.file:
        with run.stage("offline", "Offline evaluation"):
            model = fit_dynamics(run, nets, data)[0] if fitted is None else fitted.dynamics
            margin = offline.unsafe_margin(nets, grounding, fitted and fitted.cost)
            knows = ""
            if grounding is not None and fitted is not None:
                knows = _digest_with_rules(grounding, cost=fitted.cost.folder.name)
            offline.evaluate_offline(run, nets, logs, model, margin, knows, trained, deployed)
    if not config.system.file or config.system.env:
        with run.stage("evaluation", "Evaluation"):
            _evaluate_all(run, task, trained, deployed)
    if render:
        with run.stage("render", "Episodes as animations"):
            _render_all(run, task, trained, deployed)


def _make_programs(config: Config, spec: TaskSpec) -> dict[Learner, Program]:
    """The training program of each learner, in their order.

    Raises:
      ValueError: if two algorithms have the same name.
    """
    programs = {learner: make_program(config, spec, *learner) for learner in learners_of(config)}
    check_names({learner.algorithm: made.algorithm.name for learner, made in programs.items()})
    return programs


def check_names(names: Mapping[str, str]) -> None:
    """Checks that algorithms, given by what makes them, differ in their own names.

    Raises:
      ValueError: if two have the same, and so would their policies and rows.
    """
    counts: dict[str, list[str]] = {}
    for name, shown in names.items():
        counts.setdefault(shown, []).append(name)
    for shown, same in counts.items():
        if len(same) > 1:
            raise ValueError(
                f"--config.algorithms: {' and '.join(same)} are both called {shown!r}; give your "
                "own a name of its own"
            )


def _calibrated_shields(
    run: Run,
    nets: Nets,
    logs: Logs,
    grounding: Grounding,
    contexts: Mapping[str, tuple[Context, Any]],
    trained: Sequence[Trained],
) -> dict[str, ShieldState]:
    """The shields of all policies with critics, their thresholds set by the violation forecast.

    Writes `violation_forecast.json`. A forecast that is there is not made again, so thresholds and
    margin stay as they are when a run is resumed, unless it is that of other policies or of another
    version of the shield. The reward below which the planner searches follows from the logs each
    time.
    """
    score = rule_score(grounding)
    episodes = [e.obs[:-1] for e in logs.holdout or logs.episodes]
    report = run.read_json(FORECAST) or {}
    found: dict[str, ShieldState] = {}
    widening, least = None, None
    for policy in trained:
        context = contexts[policy.learner.augmentation][0]
        shield = policies.shield_state(policy, context)
        if shield is None:
            continue
        assert context.world is not None
        if least is None:
            least = _least_reward(run, context.world, logs)
        shield = shield._replace(least_reward=jnp.float32(least))
        if context.world.cost is None:
            # Without knowledge nothing says what violates: the config's thresholds stay.
            found[policy.name] = shield
            continue
        unsafe = (
            _unsafe_by_network(nets, context.world.cost)
            if score is None
            else _unsafe_by_rule(score)
        )
        made_of = digest(policy.inputs)
        if not _is_current(report.get(policy.name), made_of):
            if widening is None and grounding.rules:
                widening = _planner_margin(run, nets, context.world.dynamics, logs, grounding)
            judged = shield._replace(judge=_judge(grounding, widening))
            rows = forecast_table(
                policy.program,
                policies.deploy(policy, context, judged),
                unsafe,
                episodes,
                run.config.shield.forecast_starts,
                _ends(context.world.termination),
                context.world.bonus,
            )
            report[policy.name] = {
                "rows": rows,
                "margin": widening,
                "least_reward": least if least > ANY_REWARD else None,
                "shield_version": SHIELD_VERSION,
                MADE_OF: made_of,
            }
            run.write_json(FORECAST, report)
        try:
            row = next(row for row in report[policy.name]["rows"] if row["deployed"])
            thresholds = {name: jnp.float32(row[name]) for name in THRESHOLDS}
            judge = _judge(grounding, _stored_margin(report[policy.name]["margin"]))
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise ValueError(
                f"{run.workdir / FORECAST}: found no deployed thresholds and margin of "
                f"{policy.name}; remove it, then the same command writes it anew"
            ) from error
        found[policy.name] = shield._replace(**thresholds, judge=judge)
        _log_choice(run, policy.name, row)
    return found


def _least_reward(run: Run, world: WorldModel, logs: Logs) -> float:
    """The predicted reward below which the planner searches for more; ANY_REWARD where episodes can
    end early, of which the planner takes no notice."""
    settings = run.config.shield
    if world.termination is not None:
        return ANY_REWARD
    low, high = (float(x) for x in world.dynamics.targets.usual)
    rewards = [episode.reward for episode in logs.episodes]
    found = least_reward(rewards, (low, high), settings.planner_horizon, settings.reward_quantile)
    if found > ANY_REWARD:
        run.log(
            f"   the planner searches for reward where the policy is predicted to earn less than "
            f"{found:.3g} in {settings.planner_horizon} steps"
        )
    return found


def _planner_margin(
    run: Run, nets: Nets, model: dynamics.Model, logs: Logs, grounding: Grounding
) -> float:
    """The margin that the planner needs for what the model errs in logs, in the unit of the rules;
    that of the labels where they have several units."""
    settings, labels = run.config.shield, run.config.cost.margin
    score = rule_score(grounding)
    if score is None or not one_unit(grounding.rules):
        return labels
    # What the planner judges by: where several rules vote, not the largest of their margins.
    margin = functools.partial(in_blocks, jax.jit(score))
    near = reports.nearness(run.config, logs, margin)
    excesses = [
        dynamics_error.margin_excess(nets.dynamics, model, margin, episodes, near, MARGIN_STEPS)
        for episodes in (logs.holdout, logs.episodes)
    ]
    least, most = settings.least_margin * labels, settings.most_margin * labels
    found = planner_margin(excesses, settings.margin_coverage, least, labels, most)
    unit = grounding.rules[0].unit
    run.log(
        f"   margin of the planner: {found:.3g} {unit} (of the labels: {labels:g} {unit}), by "
        f"predictions of {len(excesses[0])} held-out stretches and {len(excesses[1])} of training"
    )
    return found


def _stored_margin(found: Any) -> float | None:
    """A margin of `violation_forecast.json`, checked; None where no rules are widened."""
    if found is not None and not 0.0 <= float(found) < np.inf:
        raise ValueError(f"found the margin {found!r}, expected a number from 0 on")
    return None if found is None else float(found)


def _judge(grounding: Grounding, widening: float | None) -> Judge | None:
    if not grounding.rules:
        return None
    if widening is None:
        raise ValueError("found no margin, although there are rules")
    return Judge(grounding.rules, widening)


def _is_current(entry: Any, made_of: str) -> bool:
    """Whether an entry of the forecast is of these policies and this version of the shield. One
    that cannot be read is told where it is used."""
    if not isinstance(entry, Mapping):
        return entry is not None
    # Earlier versions did not say of which policies.
    same = entry.get(MADE_OF, made_of) == made_of
    return same and entry.get("shield_version") == SHIELD_VERSION


def _log_choice(run: Run, name: str, row: Mapping[str, Any]) -> None:
    target = run.config.shield.target_violation_rate
    words = f"threshold of the planner {row['planner_threshold']:g}"
    if row["planner_threshold"] >= RULES_ALONE:
        words = "the rules alone decide in the planner"
    if row["violating_episodes"] is None:
        words += "; nothing could be forecast"
    elif target > 0:
        share, low, high = (
            f"{row[name]:.0%}" for name in ("violating_episodes", "interval_low", "interval_high")
        )
        words += f"; forecast share of violating episodes {share} [{low}, {high}], "
        words += f"target {target:.0%}"
    run.log(f"   {name}: {words}")


def _unsafe_by_rule(score: Any) -> Any:
    # A margin that is not a number counts as unsafe.
    return lambda obs: ~(score(obs) < 0)


def _unsafe_by_network(nets: Nets, model: cost.CostModel) -> Any:
    return lambda obs: cost.unsafe(nets.cost, model, obs)


def _ends(model: termination.TerminationModel | None) -> Any:
    return None if model is None else lambda obs: termination.ends(model, obs)


def _shield_donor(policy: Trained, trained: Sequence[Trained]) -> str:
    """The name of the policy whose shield a policy is evaluated under.

    Its own, or without augmentation that of its twin, trained with PROCO if there is one: so the
    same shield guards both, and the rows under it differ by training alone.
    """
    if policy.learner.augmentation != "none":
        return policy.name
    twins = {
        other.learner.augmentation: other.name
        for other in trained
        if other.learner.algorithm == policy.learner.algorithm
    }
    return twins.get("proco") or twins.get("control") or policy.name


def _evaluate_all(
    run: Run, task: Task, trained: Sequence[Trained], deployed: Mapping[str, Deployed]
) -> None:
    steps, episodes = run.config.train.steps, run.config.evaluation.episodes
    by_name = {policy.name: policy for policy in trained}
    for policy in trained:
        for shield in run.config.shields:
            donor = by_name[_shield_donor(policy, trained)]
            inputs = {**policy.inputs, "shield_of": donor.inputs if shield != "none" else None}
            policies.evaluate(
                run,
                policy.program,
                task,
                policy.learner,
                shield,
                deployed[policy.name],
                inputs,
                steps,
                episodes,
            )


def _rendered(run: Run) -> bool:
    names = [path.name for path in (run.workdir / FOLDER).glob("[!.]*")]
    return all(
        reports.episode_picture(run, f"{name}-{shield}").exists()
        for name in names
        for shield in run.config.shields
    )


def _render_all(
    run: Run, task: Task, trained: Sequence[Trained], deployed: Mapping[str, Deployed]
) -> None:
    players = {}
    for policy in trained:
        one = sharding.for_acting(member(deployed[policy.name], 0), 1)
        for shield in run.config.shields:
            players[f"{policy.name}-{shield}"] = policies.make_player(
                policy.program, shield, one, run.config.seed
            )
    reports.render(run, task, players)
