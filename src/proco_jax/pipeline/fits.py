"""The stages that turn logs and knowledge into a dynamics model and a cost network."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.augmentation import rollouts
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.files import write_atomic
from proco_jax.common.progress import progress
from proco_jax.data.logs import Logs
from proco_jax.diagnostics import critics as diagnosis
from proco_jax.diagnostics import dynamics_error as foresight
from proco_jax.models import cost, dynamics
from proco_jax.models import dynamics_targets as changes
from proco_jax.models.normalizer import Scale
from proco_jax.pipeline.workdir import Run
from proco_jax.training import loop as train
from proco_jax.training.loop import Parts
from proco_jax.types import Array, Dataset, LabeledStates

COST_CHUNK = 500
NEAR = 0.4  # Open-loop starts lie within this of the unsafe set, in the rule's unit.
LOGGED_CANDIDATES = 60_000
EXPLORATIONS = 16

Labeller = Callable[[np.ndarray], LabeledStates]
Score = Callable[[Array], jax.Array]


class Data(NamedTuple):
    """The logs on the device, split, and the scale fitted on the training part."""

    train: Dataset
    holdout: Dataset
    scale: Scale


def fit_dynamics(run: Run, parts: Parts, data: Data) -> dynamics.Model:
    """Fits the ensemble, or takes up where a killed fit stopped.

    Returns:
      The model, every leaf with a leading axis of one fit for each seed (or a
      single one, see `DynamicsConfig.per_seed`).
    """
    config = run.config.dynamics
    targets = changes.fit_targets(parts.spec, data.scale, data.train)
    actions = data.train.action.shape[-1]
    keys = fit_keys(run, 1)
    state = jax.vmap(lambda k: dynamics.init(config, parts.spec, actions, k))(keys)
    chunk = train.make_dynamics_chunk(parts)
    with Checkpoints(run.checkpoints("dynamics")) as saved:
        done = saved.latest or 0
        state = saved.restore(state) if done else state
        run.metrics.resume("dynamics", done)
        with progress("dynamics", config.steps, run.log, done) as advance:
            while done < config.steps:
                state, metrics = chunk(targets, data.scale, data.train, data.holdout, state)
                done += config.holdout_every
                advance(config.holdout_every)
                run.metrics.write("dynamics", done, metrics)
                check_finite("dynamics", done, metrics)
                saved.save(done, state)
    limit = (run.config.rollouts.disagreement_quantile, run.config.rollouts.disagreement_slack)
    finish = functools.partial(
        dynamics.model, config, parts.dynamics, targets, data.scale, data.train, limit=limit
    )
    return jax.jit(jax.vmap(finish))(state)


def report_dynamics(
    run: Run, parts: Parts, data: Data, model: dynamics.Model, logs: Logs, risk: foresight.Risk
) -> None:
    """Writes `dynamics.json`: one-step fit by sensor group and the open-loop tables."""
    one = first(model)
    open_loop, by_ring = [], []
    for name, episodes in (("violating, unseen", logs.dropped), ("safe, held out", logs.holdout)):
        rows = foresight.open_loop(parts.dynamics, one, risk, episodes[:60], NEAR)
        open_loop += [{"episodes": name} | row for row in rows]
        rings = foresight.open_loop_by_ring(parts.dynamics, one, episodes[:60])
        by_ring += [{"episodes": name} | row for row in rings]
    report = {
        "r2": foresight.model_fit(parts.dynamics, one, data.train, data.holdout),
        "open_loop": open_loop,
        "open_loop_by_ring": by_ring,
        "disagreement_limit": float(one.limit),
        "near": NEAR,
    }
    run.write_json("dynamics.json", report)


def label_states(
    run: Run, parts: Parts, data: Data, model: dynamics.Model, ask: Labeller, score: Score | None
) -> LabeledStates:
    """Labels of a covering sample of logged and imagined states; writes `labels.npz`.

    Args:
      ask: chooses among candidate states `[M, O]` and labels what it chose. The
        same data give the same candidates, so an existing file answers.
      score: raw obs `[..., O]` to `[...]`, what exploration seeks, e.g. the
        margin of a rule; None explores at random.
    """
    path = run.workdir / "labels.npz"
    if path.exists():
        with np.load(path) as stored:
            return LabeledStates(*(stored[name] for name in LabeledStates._fields))
    rows = np.linspace(0, len(data.train.obs) - 1, LOGGED_CANDIDATES).astype(np.int64)
    logged = np.asarray(data.train.obs)[np.unique(rows)]
    imagined = explore(run, parts, data, first(model), score)
    kept = np.arange(imagined.obs.shape[1]) <= np.asarray(imagined.length)[:, None]
    labels = ask(np.concatenate([logged, np.asarray(imagined.obs)[kept]]))
    write_atomic(path, lambda p: np.savez_compressed(p, **labels._asdict()))
    return labels


def explore(
    run: Run, parts: Parts, data: Data, model: dynamics.Model, score: Score | None
) -> rollouts.Imagined:
    """Rollouts before there is a cost network: towards a high score, or at random.

    Logs that almost never failed hold almost no unsafe state to label, and
    random actions seldom reach one.
    """
    config = run.config.rollouts

    @jax.jit
    def go(data: Dataset, model: dynamics.Model, keys: Array) -> rollouts.Imagined:
        world = train.make_world(parts, model, None)
        risky = jnp.arange(data.size)
        if score is not None:
            world = world._replace(score=score)
            known = jax.lax.map(score, data.obs, batch_size=4096)[data.obs_index]
            risky = jnp.argsort(-known)[: max(1, int(data.size * config.risky_top))]
        generate = functools.partial(
            rollouts.generate, config, world, _anything(data), data, risky, model.elites.shape[0]
        )
        return jax.lax.map(generate, keys)

    key = jax.random.fold_in(jax.random.key(run.config.seed), 3)
    found = go(data.train, model, jax.random.split(key, EXPLORATIONS))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def _anything(data: Dataset) -> Callable[[Array, Array], jax.Array]:
    """A policy that acts at random."""

    def act(key: Array, obs: Array) -> jax.Array:
        shape = (*obs.shape[:-1], data.action.shape[-1])
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    return act


def fit_cost(
    run: Run, parts: Parts, scale: Scale, labels: LabeledStates
) -> tuple[cost.CostModel, dict[str, Any], LabeledStates]:
    """Distils labels into the cost network and sets its threshold on held-out ones.

    Returns:
      The model with a leading axis as `fit_dynamics`, a report, and the
      held-out labels.
    """
    config = run.config.cost
    rng = np.random.default_rng(run.config.seed)
    order = rng.permutation(len(labels.unsafe))
    held, used = np.split(order, [int(len(order) * held_out_share(run, labels))])
    # Too few unsafe labels for the stated recall are told before the fit.
    cost.conformal_threshold(np.zeros(int((labels.unsafe[held] >= 0.5).sum())), config.recall)
    on_device = cost.Labels(scale(labels.obs[used]), jnp.asarray(labels.unsafe[used]))
    state = jax.vmap(lambda k: cost.init(config, parts.cost, k))(fit_keys(run, 2))
    chunk = train.make_cost_chunk(parts, min(COST_CHUNK, config.steps))
    with Checkpoints(run.checkpoints("cost")) as saved:
        done = saved.latest or 0
        state = saved.restore(state) if done else state
        run.metrics.resume("cost", done)
        with progress("cost", config.steps, run.log, done) as advance:
            while done < config.steps:
                state, metrics = chunk(on_device, state)
                done += min(COST_CHUNK, config.steps)
                advance(min(COST_CHUNK, config.steps))
                run.metrics.write("cost", done, metrics)
                check_finite("cost", done, metrics)
        saved.save(done, state)
    held_out = LabeledStates(*(x[held] for x in labels))
    return *_calibrated(run, parts, scale, state, held_out), held_out


def held_out_share(run: Run, labels: LabeledStates) -> float:
    """The share of labels kept for the threshold, more where unsafe ones are few.

    A model that is paid by the state labels hundreds, of which the stated
    recall needs 1 / (1 - recall) unsafe ones; never more than half are kept.
    """
    config = run.config.cost
    unsafe = max(int((labels.unsafe >= 0.5).sum()), 1)
    # Half as many again, since the split is by chance.
    needed = 1.5 / (1.0 - config.recall) / unsafe
    return max(config.holdout_share, min(0.5, needed))


def doubt(
    run: Run, parts: Parts, scale: Scale
) -> Callable[[LabeledStates, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What a cost ensemble, fitted to labels so far, says of other states.

    Returns:
      A function of labels and raw states `[K, O]` to the standard deviation
      `[K]` of the members' logits, and whether their upper bound is above even
      odds.
    """
    config = run.config.cost
    chunk = train.make_cost_chunk(parts, config.steps // 3 + 1)

    def ask(labels: LabeledStates, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = jax.random.fold_in(jax.random.key(run.config.seed), 4)
        state = jax.tree.map(lambda x: x[None], cost.init(config, parts.cost, key))
        on_device = cost.Labels(scale(labels.obs), jnp.asarray(labels.unsafe))
        state = first(chunk(on_device, state)[0])
        # One deviation above the mean, less the mean.
        high = cost.CostModel(state.params, scale, jnp.float32(1), jnp.float32(0))
        mean = diagnosis.cost_scores(parts.cost, high._replace(deviations=jnp.float32(0)), obs)
        spread = diagnosis.cost_scores(parts.cost, high, obs) - mean
        return spread, mean + config.deviations * spread >= 0.0

    return ask


def knowledge(
    run: Run, parts: Parts, data: Data, model: dynamics.Model, cost_model: cost.CostModel
) -> train.Knowledge:
    """What training asks of model and cost network, with the logs labelled once."""

    @jax.jit
    def label(model: cost.CostModel, obs: Array, index: Array) -> tuple[Array, Array]:
        def block(o: Array) -> tuple[Array, Array]:
            s = cost.score(parts.cost, model, o)
            return s, s >= model.threshold

        score, unsafe = jax.lax.map(block, obs, batch_size=4096)
        return score[index], unsafe[index + 1]

    def one(model: cost.CostModel) -> tuple[Array, Array]:
        score, unsafe = label(model, data.train.obs, data.train.obs_index)
        risky = jnp.argsort(-score)[: max(1, int(data.train.size * run.config.rollouts.risky_top))]
        return unsafe, risky

    count = jax.tree.leaves(model)[0].shape[0]
    found = [one(jax.tree.map(lambda x, i=i: x[i], cost_model)) for i in range(count)]
    unsafe, risky = (jnp.stack(x) for x in zip(*found, strict=True))
    known = train.Knowledge(model, cost_model, unsafe, risky)
    return known if run.config.dynamics.per_seed else first(known)


def fit_keys(run: Run, part: int) -> jax.Array:
    """One key for each fit of a part: a seed's own, or a single one for all."""
    count = run.config.seeds if run.config.dynamics.per_seed else 1
    keys = train.seed_keys(run.config.seed, count)
    return jax.vmap(lambda k: jax.random.fold_in(k, part))(keys)


def first(tree: Any) -> Any:
    """The first of several fits."""
    return jax.tree.map(lambda x: x[0], tree)


def _calibrated(
    run: Run, parts: Parts, scale: Scale, state: cost.CostState, held_out: LabeledStates
) -> tuple[cost.CostModel, dict[str, Any]]:
    config = run.config.cost
    unsafe = held_out.unsafe >= 0.5
    models, reports = [], []
    for i in range(state.step.shape[0]):
        params = jax.tree.map(lambda x, i=i: x[i], state.params)
        model = cost.CostModel(params, scale, jnp.float32(config.deviations), jnp.float32(0))
        scores = diagnosis.cost_scores(parts.cost, model, held_out.obs)
        threshold = cost.conformal_threshold(scores[unsafe], config.recall)
        models.append(model._replace(threshold=jnp.float32(threshold)))
        reports.append(diagnosis.label_agreement(scores >= threshold, held_out))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
    report = reports[0] | {
        "threshold": float(stacked.threshold[0]),
        "stated_recall": config.recall,
        "held_out_labels": len(held_out.unsafe),
        "held_out_unsafe": int(unsafe.sum()),
    }
    return stacked, report


def check_finite(part: str, step: int, metrics: dict[str, Any]) -> None:
    """Stops a run whose numbers are no longer finite.

    Raises:
      FloatingPointError: naming the metrics and what to try.
    """
    bad = sorted(k for k, v in metrics.items() if not np.all(np.isfinite(np.asarray(v))))
    if bad:
        raise FloatingPointError(
            f"{part}, step {step}: {', '.join(bad)} is not finite; lower the learning rate, "
            "or look at the data for outliers (dataset.json)"
        )
