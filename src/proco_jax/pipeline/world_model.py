"""The stages that turn logs and knowledge into the world model: dynamics, labels, cost network."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.augmentation import rollouts
from proco_jax.augmentation.base import WorldModel
from proco_jax.augmentation.proco import rollout_model
from proco_jax.common import sharding
from proco_jax.common.checkpoint import load_arrays, save_arrays
from proco_jax.common.compiler import jit_compile_fast, jit_run_once
from proco_jax.common.files import read_npz, write_atomic
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.common.random_streams import Stream, stream_key
from proco_jax.config.schema import Config, CostConfig
from proco_jax.diagnostics import critics as diagnostics
from proco_jax.knowledge.grounding import Grounding, label_states
from proco_jax.knowledge.labelers import rule_labeler
from proco_jax.models import bonus, cost, dynamics, episode_map, termination
from proco_jax.models.dynamics_targets import fit_targets, is_bonus
from proco_jax.models.networks import Critic, DynamicsNetwork
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import ObservationSpec
from proco_jax.pipeline.checkpointed_fit import run_fit
from proco_jax.pipeline.store import artifact
from proco_jax.pipeline.workdir import Run
from proco_jax.rules.rule import Rule, voted_margin
from proco_jax.training.loop import make_cost_chunk, make_dynamics_chunk
from proco_jax.types import Array, Dataset, LabeledStates

COST_CHUNK = 500
# Logged transitions whose residuals imagined worlds draw from.
RESIDUALS = 8192
# Logged states, and as many risky ones at most, in which worlds begin.
STARTS = 8192
# Raised when the meaning of an artifact changes while its settings do not.
VERSIONS = {
    "dynamics": 10,
    "bonus": 2,
    "termination": 1,
    "labels": 1,
    "cost": 1,
    "accurate_cost": 1,
}
LOGGED_CANDIDATES = 60_000
EXPLORATIONS = 16
LABELS = "labels.npz"

Score = Callable[[Array], jax.Array]


class Data(NamedTuple):
    """The logs on the device.

    Attributes:
      train: what is trained on.
      holdout: held-out episodes, or the training ones where none are held out.
      normalizer: fitted on `train`.
      digest: content hash of the logs and their split.
    """

    train: Dataset
    holdout: Dataset
    normalizer: Normalizer
    digest: str


class Nets(NamedTuple):
    """The networks of the world model."""

    spec: ObservationSpec
    dynamics: DynamicsNetwork
    cost: Critic


class FittedCost(NamedTuple):
    """The cost network and how well it agrees with held-out labels.

    Attributes:
      model: the fitted ensemble with its threshold.
      report: recall and precision on held-out labels, threshold, numbers of labels.
      held_out: the labels that it was not fitted to.
      labels: how many labels there were.
      folder: of the artifact.
    """

    model: cost.CostModel
    report: dict[str, Any]
    held_out: LabeledStates
    labels: int
    folder: Path


def make_nets(config: Config, spec: ObservationSpec) -> Nets:
    """The networks of a config for an observation."""
    return Nets(
        spec,
        dynamics.network(config.dynamics, spec),
        cost.network(config.cost, config.encoder, spec),
    )


def fit_dynamics(run: Run, nets: Nets, data: Data) -> tuple[dynamics.Model, Path]:
    """The fitted ensemble, from the store if it is there, and the folder of the artifact."""
    config = run.config
    settings, limits = config.dynamics, config.rollouts
    limit = (limits.disagreement_quantile, limits.disagreement_slack)
    inputs = {
        "version": VERSIONS["dynamics"],
        "logs": data.digest,
        "dynamics": dataclasses.asdict(settings),
        "limit": limit,
        "seed": config.seed,
    }
    actions = data.train.action.shape[-1]
    key = stream_key(config.seed, Stream.DYNAMICS)

    def make(folder: Path) -> None:
        targets = jax.tree.map(jnp.asarray, fit_targets(nets.spec, data.normalizer, data.train))
        spread = functools.partial(sharding.replicate, members=settings.members)

        def fit(stage: str, name: str, steps: int, init: Any, trajectories: bool) -> Any:
            def make_chunk(count: int) -> Callable[[Any], Any]:
                chunk = make_dynamics_chunk(config, nets.dynamics, count, trajectories)
                logs: Any = spread((targets, data.normalizer, data.train, data.holdout))
                return lambda state: chunk(*logs, spread(state))  # pyright: ignore

            return run_fit(
                run,
                stage,
                folder / name,
                steps,
                settings.holdout_every,
                make_chunk,
                init,
                unplace=lambda tree: jax.device_put(tree, jax.local_devices()[0]),
            )

        def first() -> dynamics.DynamicsState:
            begin = functools.partial(dynamics.init, settings, nets.spec, actions)
            return jit_run_once(begin)(key)

        state = fit("dynamics", "checkpoints", settings.steps, first, False)
        if settings.trajectory.steps:
            state = fit(
                "dynamics/trajectories",
                "trajectory_checkpoints",
                settings.trajectory.steps,
                functools.partial(dynamics.begin_trajectory_fit, settings, state),
                True,
            )

        @jit_compile_fast
        def finish(
            state: dynamics.DynamicsState, train: Dataset, holdout: Dataset
        ) -> dynamics.Model:
            return dynamics.model(
                settings, nets.dynamics, targets, data.normalizer, train, holdout, state, limit
            )

        save_arrays(folder / "model", finish(state, data.train, data.holdout))

    folder = artifact(run.store, "dynamics", inputs, make, run.log)
    like = jax.eval_shape(lambda: dynamics.empty_model(settings, nets.spec, actions))
    return load_arrays(folder / "model", like, verified=True), folder


def fit_bonus(
    run: Run, nets: Nets, data: Data, model: dynamics.Model
) -> tuple[bonus.BonusModel, Path]:
    """The event model of rare bonuses, from the store if it is there, and the artifact's folder."""
    config = run.config
    inputs = {
        "version": VERSIONS["bonus"],
        "logs": data.digest,
        "bonus": dataclasses.asdict(config.bonus),
        "seed": config.seed,
    }

    def make(folder: Path) -> None:
        fitted = bonus.fit(
            config.bonus,
            nets.spec,
            model.targets,
            data.normalizer,
            data.train,
            stream_key(config.seed, Stream.BONUS),
        )
        save_arrays(folder / "model", fitted)
        run.log(f"   {_bonus_words(nets.spec, fitted, model, data.holdout)}")

    folder = artifact(run.store, "bonus", inputs, make, run.log)
    actions = data.train.action.shape[-1]
    like = jax.eval_shape(lambda: bonus.empty_model(config.bonus, nets.spec, actions))
    return load_arrays(folder / "model", like, verified=True), folder


def _bonus_words(
    spec: ObservationSpec, fitted: bonus.BonusModel, model: dynamics.Model, holdout: Dataset
) -> str:
    """Size of the bonus and its probability on held-out transitions, in a line."""
    if not fitted.size:
        return "no rare bonus in the logs"
    targets = model.targets._replace(usual=np.asarray(model.targets.usual))
    occurs = np.asarray(is_bonus(targets, np.asarray(holdout.reward)))

    @jax.jit
    def chance(fitted: bonus.BonusModel, data: Dataset) -> jax.Array:
        def block(row: tuple[Array, Array]) -> jax.Array:
            return bonus.probability(spec, fitted, *row)

        rows = (data.obs[data.obs_index], data.action)
        return jax.lax.map(block, rows, batch_size=4096)

    found = np.asarray(chance(fitted, holdout))
    at, elsewhere = found[occurs], found[~occurs]
    words = f"rare bonus of {float(fitted.size):.3g}, mean probability {elsewhere.mean():.1e}"
    if not len(at):
        return f"{words} on held-out transitions, none of which has one"
    return (
        f"{words} on held-out transitions without it, median {np.median(at):.2f} on {len(at)} with"
    )


def fit_termination(
    run: Run, nets: Nets, data: Data
) -> tuple[termination.TerminationModel | None, Path | None]:
    """The classifier of states that end an episode, from the store if it is there, and the folder.

    Both are None where no logged episode ends by a true termination.
    """
    if not termination.terminates(data.train).any():
        return None, None
    seed = run.config.seed
    inputs = {"version": VERSIONS["termination"], "logs": data.digest, "seed": seed}

    def make(folder: Path) -> None:
        key = stream_key(seed, Stream.TERMINATION)
        fitted = termination.fit(data.normalizer, data.train, key)
        save_arrays(folder / "model", fitted)
        run.log(f"   {_termination_words(fitted, data.holdout)}")

    folder = artifact(run.store, "termination", inputs, make, run.log)
    like = jax.eval_shape(lambda: termination.empty_model(nets.spec.size))
    return load_arrays(folder / "model", like, verified=True), folder


def _termination_words(fitted: termination.TerminationModel, holdout: Dataset) -> str:
    """Which held-out states are said to end an episode, in a line."""
    found = np.asarray(jax.jit(termination.ends)(fitted, holdout.obs[holdout.obs_index + 1]))
    over = termination.terminates(holdout)
    words = f"terminations: {found[~over].mean():.2%} of the held-out states that did not end"
    if not over.any():
        return f"{words} an episode are said to; there is none that did"
    return f"{words} an episode are said to, {found[over].mean():.0%} of the {over.sum()} that did"


def label(
    run: Run,
    nets: Nets,
    data: Data,
    model: dynamics.Model,
    dynamics_folder: Path,
    grounding: Grounding,
) -> tuple[LabeledStates, Path]:
    """Labels of a covering sample of logged and imagined states, and the artifact's folder."""
    config = run.config
    asked = dataclasses.asdict(config.knowledge)
    # Where replies are cached and how many calls run at once does not decide the answers. Budget,
    # retries and time limit do: they may leave votes out.
    for name in ("cache", "concurrency"):
        del asked[name]
    inputs = {
        "version": VERSIONS["labels"],
        "dynamics": dynamics_folder.name,
        "exploration": dataclasses.asdict(config.exploration),
        "knowledge": asked | {"file": ""},
        "text": grounding.knowledge.text,
        "rules": [rule.text for rule in grounding.rules],
        "fields": grounding.knowledge.spec.to_json(),
        "boundary": None if grounding.knowledge.rule is None else grounding.knowledge.rule.text,
        "cost": dataclasses.asdict(config.cost),
        "encoder": dataclasses.asdict(config.encoder),
        "seed": config.seed,
    }
    if config.knowledge.labeler == "states":
        # How the confidence of an answer is read.
        inputs["answers"] = 2

    def make(folder: Path) -> None:
        rows = np.linspace(0, len(data.train.obs) - 1, LOGGED_CANDIDATES).astype(np.int64)
        logged = np.asarray(data.train.obs)[np.unique(rows)]
        imagined = explore(config, nets, data, model, rule_score(grounding))
        kept = np.arange(imagined.obs.shape[1]) <= np.asarray(imagined.length)[:, None]
        candidates = np.concatenate([logged, np.asarray(imagined.obs)[kept]])
        uncertainty = cost_uncertainty(config, nets, data.normalizer)
        labels = label_states(grounding, candidates, config, config.seed, uncertainty)
        write_atomic(folder / LABELS, lambda p: np.savez_compressed(p, **labels._asdict()))

    folder = artifact(run.store, "labels", inputs, make, run.log)
    remedy = f"remove {folder}, then the same command makes it anew"
    stored = read_npz(folder / LABELS, LabeledStates._fields, remedy)
    return LabeledStates(**stored), folder


def explore(
    config: Config, nets: Nets, data: Data, model: dynamics.Model, score: Score | None
) -> rollouts.Imagined:
    """Rollouts before there is a cost network: toward a high score, or random ones.

    Logs without violations hold almost no unsafe state to label, and random actions seldom reach
    one.

    Args:
      score: raw obs `[..., O]` to `[...]`, e.g. the margin of a rule; None explores at random.
    """
    settings = config.exploration

    def anything(key: Array, obs: Array) -> jax.Array:
        shape = (*obs.shape[:-1], data.train.action.shape[-1])
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    @jit_compile_fast
    def go(train: Dataset, model: dynamics.Model, keys: Array) -> rollouts.Imagined:
        world = rollout_model(nets.dynamics, nets.cost, model, None)
        risky = jnp.arange(train.size)
        if score is not None:
            world = world._replace(score=score)
            known = jax.lax.map(score, train.obs, batch_size=4096)[train.obs_index]
            risky = jnp.argsort(-known)[: max(1, int(train.size * settings.risky_top))]
        hyper, elites = hyper_from(settings, rollouts.Hyper), model.elites.shape[0]
        return jax.lax.map(
            lambda key: rollouts.generate(
                settings, hyper, world, anything, train, risky, elites, key
            ),
            keys,
        )

    key = stream_key(config.seed, Stream.EXPLORATION)
    found = go(data.train, model, jax.random.split(key, EXPLORATIONS))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def fit_cost(
    run: Run, nets: Nets, normalizer: Normalizer, labels: LabeledStates, labels_folder: Path
) -> FittedCost:
    """Distills labels into the cost network and sets its threshold on held-out ones."""
    config = run.config
    settings = config.cost
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(labels.unsafe))
    held, used = np.split(order, [int(len(order) * held_out_share(config, labels))])
    # Too few unsafe labels for the stated recall are an error before the fit.
    cost.conformal_threshold(np.zeros(int((labels.unsafe[held] >= 0.5).sum())), settings.recall)
    held_out = LabeledStates(*(x[held] for x in labels))
    inputs = {
        "version": VERSIONS["cost"],
        "labels": labels_folder.name,
        "cost": dataclasses.asdict(settings),
        "encoder": dataclasses.asdict(config.encoder),
        "seed": config.seed,
    }

    def make(folder: Path) -> None:
        kept = LabeledStates(*(x[used] for x in labels))
        state = _fit_cost_members(run, "cost", nets, normalizer, kept, settings, folder)
        model = cost.CostModel(
            state.params, normalizer, jnp.float32(settings.ucb_coefficient), jnp.float32(0)
        )
        scores = diagnostics.cost_scores(nets.cost, model, held_out.obs)
        threshold = cost.conformal_threshold(scores[held_out.unsafe >= 0.5], settings.recall)
        save_arrays(folder / "model", model._replace(threshold=jnp.float32(threshold)))

    folder = artifact(run.store, "cost", inputs, make, run.log)

    like = jax.eval_shape(lambda: cost.empty_model(settings, nets.cost))
    model = load_arrays(folder / "model", like, verified=True)
    called = diagnostics.unsafe_states(nets.cost, model, held_out.obs)
    report = diagnostics.label_agreement(called, held_out) | {
        "threshold": float(model.threshold),
        "stated_recall": settings.recall,
        "held_out_labels": len(held_out.unsafe),
        "held_out_unsafe": int((held_out.unsafe >= 0.5).sum()),
    }
    return FittedCost(model, report, held_out, len(labels.unsafe), folder)


def fit_accurate_cost(
    run: Run,
    nets: Nets,
    normalizer: Normalizer,
    labels: LabeledStates,
    labels_folder: Path,
    rules: Sequence[Rule],
) -> tuple[cost.CostModel, Path]:
    """A cost network that is not conservative, for worlds in which a policy is improved.

    Its labels are the votes of the rules without a margin; missed states and false alarms weigh the
    same, and it calls a state unsafe if the ensemble's mean does. The labels of a language model
    that writes no rule are taken as they are, with the margin that it was asked for.

    Args:
      labels: of the conservative network.
      labels_folder: their artifact.
      rules: that labeled them; empty if a language model did.

    Returns:
      The fitted ensemble, and the artifact's folder.
    """
    config = run.config
    settings = dataclasses.replace(config.cost, margin=0.0, miss_weight=1.0, ucb_coefficient=0.0)
    inputs = {
        "version": VERSIONS["accurate_cost"],
        "labels": labels_folder.name,
        "cost": dataclasses.asdict(settings),
        "encoder": dataclasses.asdict(config.encoder),
        "seed": config.seed,
    }
    if rules:
        labels = rule_labeler(rules, 0.0)(labels.obs)

    def make(folder: Path) -> None:
        state = _fit_cost_members(run, "accurate_cost", nets, normalizer, labels, settings, folder)
        zero = jnp.float32(0)
        save_arrays(folder / "model", cost.CostModel(state.params, normalizer, zero, zero))

    folder = artifact(run.store, "accurate_cost", inputs, make, run.log)
    like = jax.eval_shape(lambda: cost.empty_model(settings, nets.cost))
    return load_arrays(folder / "model", like, verified=True), folder


def _fit_cost_members(
    run: Run,
    stage: str,
    nets: Nets,
    normalizer: Normalizer,
    labels: LabeledStates,
    settings: CostConfig,
    folder: Path,
) -> cost.CostState:
    """An ensemble fitted to the labels."""
    config = dataclasses.replace(run.config, cost=settings)
    on_device = cost.Labels(normalizer(labels.obs), jnp.asarray(labels.unsafe))

    def make_chunk(steps: int) -> Callable[[Any], Any]:
        chunk = make_cost_chunk(config, nets.cost, steps)
        return lambda state: chunk(on_device, state)

    begin = jit_run_once(functools.partial(cost.init, settings, nets.cost))
    return run_fit(
        run,
        stage,
        folder / "checkpoints",
        settings.steps,
        COST_CHUNK,
        make_chunk,
        functools.partial(begin, stream_key(config.seed, Stream.COST)),
    )


def held_out_share(config: Config, labels: LabeledStates) -> float:
    """The share of labels kept for the threshold, larger where unsafe ones are few.

    A stated recall needs 1 / (1 - recall) unsafe held-out labels, and a language model labels only
    hundreds of states. Never more than half are kept.
    """
    unsafe = max(int((labels.unsafe >= 0.5).sum()), 1)
    # Half as many again, since the split is random.
    needed = 1.5 / (1.0 - config.cost.recall) / unsafe
    return max(config.cost.holdout_share, min(0.5, needed))


def cost_uncertainty(
    config: Config, nets: Nets, normalizer: Normalizer
) -> Callable[[LabeledStates, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """How uncertain a cost ensemble is about states, if fitted to the labels so far.

    Returns:
      A function of labels and raw states `[K, O]` to the standard deviation `[K]` of the members'
      logits, and whether their upper confidence bound is above even odds.
    """
    settings = config.cost
    chunk = make_cost_chunk(config, nets.cost, settings.steps // 3 + 1)
    begin = jit_run_once(functools.partial(cost.init, settings, nets.cost))

    def ask(labels: LabeledStates, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = stream_key(config.seed, Stream.COST_UNCERTAINTY)
        on_device = cost.Labels(normalizer(labels.obs), jnp.asarray(labels.unsafe))
        state = chunk(on_device, begin(key))[0]
        mean_model = cost.CostModel(state.params, normalizer, jnp.float32(0), jnp.float32(0))
        upper_model = mean_model._replace(ucb_coefficient=jnp.float32(1))
        mean = diagnostics.cost_scores(nets.cost, mean_model, obs)
        spread = diagnostics.cost_scores(nets.cost, upper_model, obs) - mean
        return spread, mean + settings.ucb_coefficient * spread >= 0.0

    return ask


def make_world(
    config: Config,
    nets: Nets,
    data: Data,
    model: dynamics.Model,
    cost_model: cost.CostModel | None,
    events: bonus.BonusModel | None = None,
    ending: termination.TerminationModel | None = None,
    accurate: cost.CostModel | None = None,
) -> WorldModel:
    """What augmentations ask of the fitted models, with the logs labeled once.

    Without a cost network nothing is unsafe, and starts are drawn from all logs.

    Args:
      accurate: from `fit_accurate_cost`, if a policy is improved.
    """
    size, residuals = data.train.size, None
    if config.proco.imagination.updates:
        elites = config.proco.imagination.elites
        find = jax.jit(lambda x, y: dynamics.residuals(nets.dynamics, x, y, elites, RESIDUALS))
        residuals = find(model, data.train)
    world = WorldModel(
        model,
        cost=None,
        unsafe=jnp.zeros(size, bool),
        risky=jnp.arange(size),
        bonus=events,
        residuals=residuals,
        termination=ending,
    )
    if cost_model is None:
        return _with_starts(config, nets, data, world)

    @jax.jit
    def run(cost_model: cost.CostModel, train: Dataset) -> tuple[Array, Array]:
        def block(obs: Array) -> jax.Array:
            return cost.score(nets.cost, cost_model, obs)

        score = jax.lax.map(block, train.obs, batch_size=4096)
        risky = jnp.argsort(-score[train.obs_index])
        return score[train.obs_index + 1] >= cost_model.threshold, risky

    unsafe, risky = run(cost_model, data.train)
    top = max(1, int(size * config.rollouts.risky_top))
    world = world._replace(
        cost=cost_model, unsafe=unsafe, risky=risky[:top], accurate_cost=accurate
    )
    return _with_starts(config, nets, data, world)


def _with_starts(config: Config, nets: Nets, data: Data, world: WorldModel) -> WorldModel:
    """The world with the states in which worlds may begin, if a policy is improved in it.

    Without rings there is no map, and worlds begin with what a logged state shows.
    """
    settings, spec = config.proco.imagination, nets.spec
    if not settings.updates or not spec.rings:
        return world
    logs, model = data.train, world.dynamics
    move = jax.jit(
        lambda model, logs: dynamics.motions(nets.dynamics, model, logs, settings.elites)
    )
    earned = np.asarray(is_bonus(model.targets, logs.reward))
    route = episode_map.route(logs, np.asarray(move(model, logs)), earned)
    redrawn = jnp.zeros(len(spec.rings), bool)
    if world.bonus is not None:
        redrawn = bonus.redrawn_rings(spec, world.bonus)
    rows = np.asarray(logs.obs_index)
    some = _evenly(logs.size, STARTS)
    rings = episode_map.find_rings(spec, model.resting, redrawn, logs.obs, route, rows[some])
    risky = np.asarray(world.risky)[_evenly(len(world.risky), STARTS)]
    both = rows[np.concatenate([some, risky])]
    begun = episode_map.begin(spec, rings, logs.obs, route, both)
    return world._replace(begun=begun[: len(some)], begun_risky=begun[len(some) :])


def _evenly(size: int, most: int) -> np.ndarray:
    """All indices below a size, or so many of them, evenly spaced."""
    return np.linspace(0, size - 1, min(size, most)).astype(np.int64)


def rule_score(grounding: Grounding) -> Score | None:
    """The margin by which the rules vote, as a compiled function; None without rules."""
    if not grounding.rules:
        return None
    return lambda obs: voted_margin(grounding.rules, obs)
