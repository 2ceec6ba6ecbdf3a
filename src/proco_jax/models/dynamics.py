"""The dynamics model: an ensemble that predicts the next observation and the reward.

Each member is a network with a mean and a variance head, fitted to standardized changes. The mean
is fitted by squared error and the variance to the error of the fixed mean: under a plain Gaussian
likelihood, the variance grows on hard dimensions and their mean is never learned (Seitzer et al.
2022, of whose beta-NLL this is the limit). Members differ by initialization and bootstrap; the best
on held-out episodes, the elites, predict, as in MOPO (Yu et al. 2020).

The fit has two parts, of which the second is optional. The first is on single transitions. Errors
that are small in one step add up: the mean over ambiguous outcomes spreads a ring's nearest object
over several bins, and after 20 steps objects seem closer than they are. The second part therefore
fits predicted trajectories to logged ones, with gradients through all of their steps (as in Abbeel
et al. 2005). Fields count the same in it, whatever their size: where dimensions did, the 48 bins of
three rings outweighed the one number of a gyroscope, which was then used to improve the rings and
exceeded its range.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from proco_jax.common.compiler import jit_compile_fast
from proco_jax.config.schema import DynamicsConfig
from proco_jax.models import approach, losses, object_map
from proco_jax.models.dynamics_targets import (
    REWARDS,
    ROBUST,
    Targets,
    is_bonus,
    split_reward,
    standardized,
)
from proco_jax.models.networks import DynamicsNetwork, apply, put_planar, take_planar
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# Held-out stretches by which it is decided which rings show resting objects and which vectors are
# fixed in the world, and by how many times the error of rings that are shown from places may exceed
# that of rings that are predicted from the last.
RESTING_STARTS, RESTING_STEPS = 512, 25
RESTING_TIE = 1.05


class Model(NamedTuple):
    """A fitted ensemble.

    Attributes:
      params: network parameters with leading axis `[E]`.
      elites: `[K]` indices of the members that predict.
      normalizer: of the observations.
      targets: of the changes.
      limit: disagreement above which a rollout has left the support of the logs.
      resting: `[R]` bool, the rings that show resting objects, `[1]` without rings.
      approach: `[R]` reward of a meter by which a ring's nearest object comes closer, if that is
        the usual reward (`approach.fit`); else all 0.
      fixed: `[V]` bool, the vectors that are fixed in the world, as that of a compass, and turn as
        the rings do; `[1]` without vectors.
    """

    params: Any
    elites: Array
    normalizer: Normalizer
    targets: Targets
    limit: Array
    resting: Array
    approach: Array
    fixed: Array


@struct.dataclass
class DynamicsState:
    """State of the fit; every leaf of the members has leading axis `[E]`.

    Attributes:
      params: current parameters.
      optimizer: optimizer state.
      best_params: parameters at the best holdout error.
      best_error: `[E]` that error, mean squared and standardized.
      step: gradient steps done.
      key: typed key; a step derives its own by folding in `step`.
    """

    params: Any
    optimizer: optax.OptState
    best_params: Any
    best_error: Array
    step: Array
    key: Array


def network(config: DynamicsConfig, spec: ObservationSpec) -> DynamicsNetwork:
    """The network of one member."""
    return DynamicsNetwork(spec, config.bin_hidden, config.hidden, config.neighbors, REWARDS)


def init(config: DynamicsConfig, spec: ObservationSpec, actions: int, key: Array) -> DynamicsState:
    """A fresh ensemble for observations of `spec` and `actions` action dimensions."""
    init_key, step_key = jax.random.split(key)
    obs, action = jnp.zeros(spec.size), jnp.zeros(actions)
    net = network(config, spec)
    params = jax.vmap(lambda k: net.init(k, obs, action))(
        jax.random.split(init_key, config.members)
    )
    optimizer = jax.vmap(_optimizer(config).init)(params)
    return DynamicsState(
        params=params,
        optimizer=optimizer,
        best_params=jax.tree.map(jnp.copy, params),
        best_error=jnp.full(config.members, jnp.inf, jnp.float32),
        step=jnp.int32(0),
        key=step_key,
    )


class Member(NamedTuple):
    """One member of a `DynamicsState`; the same fields, without the leading axis."""

    params: Any
    optimizer: optax.OptState
    best_params: Any
    best_error: Array


class Step(NamedTuple):
    """A gradient step of one member.

    Attributes:
      key: typed key of the fit.
      step: gradient steps done before it.
      index: of the member.
      members: E.
    """

    key: Array
    step: Array
    index: Array
    members: int


def members_of(state: DynamicsState) -> Member:
    """The members of a state, leaves `[E, ...]`."""
    return Member(state.params, state.optimizer, state.best_params, state.best_error)


def update_member(
    config: DynamicsConfig,
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    data: Dataset,
    step: Step,
    member: Member,
) -> tuple[Member, dict[str, jax.Array]]:
    """One gradient step of a member on its own bootstrap of the logs."""
    batch = standardized(targets, normalizer, data, _draw(step, config.batch, data.size))
    loss = functools.partial(_loss, config, net, targets, batch=batch)
    member, value = _descend(_optimizer(config), loss, member)
    return member, {"dynamics/loss": value}


def validate_member(
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    holdout: Dataset,
    member: Member,
) -> tuple[Member, dict[str, jax.Array]]:
    """Measures a member's holdout error and keeps the best parameters so far."""
    index = jnp.linspace(0, holdout.size - 1, min(holdout.size, 4096)).astype(jnp.int32)
    obs, action, target = standardized(targets, normalizer, holdout, index)
    mean = _standardized_change(net, member.params, targets, obs, action)[0]
    fit = _fit_error(net.spec, mean - target)
    error = jnp.mean(jnp.sum(fit * targets.varies, axis=-1) / targets.varies.sum())
    return _keep_best(member, error), {"dynamics/holdout_mse": error}


def begin_trajectory_fit(config: DynamicsConfig, state: DynamicsState) -> DynamicsState:
    """The first state of the fit to trajectories: the best parameters of a finished first part."""
    optimizer = jax.vmap(_trajectory_optimizer(config).init)(state.best_params)
    return DynamicsState(
        params=jax.tree.map(jnp.copy, state.best_params),
        optimizer=optimizer,
        best_params=state.best_params,
        best_error=jnp.full(config.members, jnp.inf, jnp.float32),
        step=jnp.int32(0),
        key=jax.random.fold_in(state.key, 2**31 - 2),
    )


def update_member_on_trajectories(
    config: DynamicsConfig,
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    data: Dataset,
    step: Step,
    member: Member,
) -> tuple[Member, dict[str, jax.Array]]:
    """One gradient step of a member on trajectories from its own bootstrap of the logs."""
    index = _draw(step, config.trajectory.batch, data.size)
    windows = take_windows(targets, data, index, config.trajectory.horizon)
    loss = functools.partial(trajectory_loss, config, net, targets, normalizer, windows=windows)
    member, value = _descend(_trajectory_optimizer(config), loss, member)
    return member, {"dynamics/trajectory_loss": value}


def validate_member_on_trajectories(
    config: DynamicsConfig,
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    holdout: Dataset,
    member: Member,
) -> tuple[Member, dict[str, jax.Array]]:
    """Measures a member's loss on held-out trajectories and keeps the best parameters so far."""
    index = jnp.linspace(0, holdout.size - 1, min(holdout.size, 1024)).astype(jnp.int32)
    windows = take_windows(targets, holdout, index, config.trajectory.horizon)
    error = trajectory_loss(config, net, targets, normalizer, member.params, windows)
    return _keep_best(member, error), {"dynamics/holdout_trajectory_loss": error}


class Windows(NamedTuple):
    """Logged stretches of H steps.

    Attributes:
      start: `[B, O]` raw.
      action: `[B, H, A]`.
      obs: `[B, H, O]` raw, after each step.
      reward: `[B, H, REWARDS]`, its parts.
      fits_obs: `[B, H]` bool, whether the observation after the step can be predicted: the episode
        lasts so long, and no bonus came before. With a bonus the goal moves to a random place.
      fits_reward: `[B, H]` bool, the same, but the first bonus counts.
    """

    start: Array
    action: Array
    obs: Array
    reward: Array
    fits_obs: Array
    fits_reward: Array


def take_windows(targets: Targets, data: Dataset, index: Array, horizon: int) -> Windows:
    """The logged stretches of so many steps that begin with transitions `index [B]`."""
    step = jnp.arange(horizon)
    inside = step <= data.remaining[index][:, None]
    at = index[:, None] + jnp.minimum(step, data.remaining[index][:, None])
    reward = jnp.stack(split_reward(data.reward[at], targets.usual), axis=-1)
    bonuses = jnp.cumsum(is_bonus(targets, data.reward[at]), axis=1)
    before = jnp.pad(bonuses[:, :-1], ((0, 0), (1, 0)))
    return Windows(
        start=data.obs[data.obs_index[index]],
        action=data.action[at],
        obs=data.obs[data.obs_index[at] + 1],
        reward=reward,
        fits_obs=inside & (bonuses == 0),
        fits_reward=inside & (before == 0),
    )


def trajectory_loss(
    config: DynamicsConfig,
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    params: Any,
    windows: Windows,
) -> jax.Array:
    """Mean robust error of predicted trajectories, with the logged actions; a scalar.

    The error of an observation is the mean over its fields. After h steps it is in units of sqrt(h)
    usual changes, by which independent changes would add up, except that the unit of numbers
    outside of rings does not exceed their range in the logs; the nearest object of a ring moves
    steadily, and its errors are in units of h usual changes.
    """
    settings, spec = config.trajectory, net.spec
    weight = field_weights(spec, targets.varies[:-REWARDS])
    scale = targets.size[:-REWARDS]
    largest = jnp.where(_ring_mask(spec, 0), jnp.inf, jnp.maximum(normalizer.size, scale))

    def step(obs: Array, inputs: tuple[Windows, Array]) -> tuple[Array, jax.Array]:
        true, h = inputs
        next_obs, reward, *_ = _apply_member(net, params, normalizer, targets, obs, true.action)
        unit = jnp.minimum(scale * jnp.sqrt(h), largest)
        error = losses.robust_square((next_obs - true.obs) / unit, ROBUST)
        total = jnp.sum(error * weight, axis=-1)
        for i, f in enumerate(spec.rings):
            where = spec.slices[f.name]
            off = _largest(next_obs[:, where]) - jnp.max(true.obs[:, where], axis=-1)
            nearest = losses.robust_square(off / (targets.nearest[i] * h), ROBUST)
            total += settings.nearest_weight / len(spec.rings) * nearest
        wrong = losses.robust_square((reward - true.reward) / targets.size[-REWARDS:], ROBUST)
        of_reward = settings.reward_weight * jnp.sum(wrong, axis=-1)
        loss = jnp.where(true.fits_obs, total, 0.0) + jnp.where(true.fits_reward, of_reward, 0.0)
        return next_obs, jnp.sum(loss)

    by_step = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), windows._replace(start=windows.obs))
    h = jnp.arange(1.0, settings.horizon + 1.0)
    _, found = jax.lax.scan(step, windows.start, (by_step, h))
    return jnp.sum(found) / jnp.maximum(jnp.sum(windows.fits_reward), 1)


def field_weights(spec: ObservationSpec, varies: Array) -> jax.Array:
    """Weights `[O]` of sum 1 by which all fields that vary count the same, as do their numbers.

    Args:
      spec: of the observation.
      varies: `[O]`, 0 for dimensions that never change.
    """
    count = jnp.concatenate(
        [jnp.full(f.size, jnp.sum(varies[spec.slices[f.name]])) for f in spec.fields]
    )
    weight = varies / jnp.maximum(count, 1.0)
    return weight / jnp.maximum(jnp.sum(weight), 1.0)


def residuals(
    net: DynamicsNetwork, model: Model, data: Dataset, elites: int, count: int
) -> jax.Array:
    """What the mean of the best elites misses of logged next observations, `[K, O]`.

    0 in rings and in vectors that are fixed in the world: both follow from the motion, and errors
    of single steps would add up in them.

    Args:
      data: the logs.
      elites: how many predict.
      count: K, or as many as there are transitions.
    """
    index = jnp.linspace(0, data.size - 1, min(data.size, count)).astype(jnp.int32)
    at = data.obs_index[index]
    state = object_map.begin(net.spec, data.obs[at])
    found = predict_mean(net, model, state, data.action[index], elites)
    next_obs = object_map.observation(net.spec, found.next_state)
    missed = jnp.where(_ring_mask(net.spec, 0), 0.0, data.obs[at + 1] - next_obs)
    if not net.spec.vectors:
        return missed
    planar = jnp.where(model.fixed[:, None], 0.0, take_planar(net.spec, missed))
    return put_planar(net.spec, missed, planar)


def motions(net: DynamicsNetwork, model: Model, data: Dataset, elites: int) -> jax.Array:
    """The agent's motion in each logged transition, `[N, 3]`, by the best elites.

    Ahead and left in meters and the turn to the left in rad, in its own frame; 0 without rings.

    Args:
      data: the logs.
      elites: how many predict.
    """
    params = jax.tree.map(lambda x: x[model.elites[:elites]], model.params)

    def one(row: tuple[Array, Array]) -> jax.Array:
        return jnp.mean(
            jax.vmap(lambda p: _apply_member(net, p, model.normalizer, model.targets, *row)[3])(
                params
            ),
            axis=0,
        )

    rows = (data.obs[data.obs_index], data.action)
    return jax.lax.map(one, rows, batch_size=4096)


def model(
    config: DynamicsConfig,
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    data: Dataset,
    holdout: Dataset,
    state: DynamicsState,
    limit: tuple[float, float],
) -> Model:
    """The fitted model: best parameters, elites, resting rings, fixed vectors, and the limit.

    Args:
      data: the logs.
      holdout: held-out episodes.
      limit: (quantile, slack): the limit is slack times this quantile of the disagreement on
        logged transitions.
    """
    elites = jnp.argsort(state.best_error)[: config.elites]
    each = jnp.zeros(max(len(net.spec.rings), 1))
    none = jnp.zeros(max(len(net.spec.vectors), 1), bool)
    fitted = Model(state.best_params, elites, normalizer, targets, jnp.inf, each > 0, each, none)
    fitted = fitted._replace(fixed=fixed_vectors(net, fitted, holdout))
    resting = resting_rings(net, fitted, holdout)
    weights = approach.fit(net.spec, targets, resting, data, holdout)
    fitted = fitted._replace(resting=resting, approach=weights)
    index = jnp.linspace(0, data.size - 1, min(data.size, 4096)).astype(jnp.int32)
    begun = object_map.begin(net.spec, data.obs[data.obs_index[index]])
    seen = predict_mean(net, fitted, begun, data.action[index]).disagreement
    return fitted._replace(limit=limit[1] * jnp.quantile(seen, limit[0]))


def resting_rings(net: DynamicsNetwork, model: Model, holdout: Dataset) -> jax.Array:
    """The rings that are predicted as well from the places of their objects, `[R]` bool.

    Compared are mean squared errors of the bins over all of RESTING_STEPS steps with logged
    actions, up to a bonus, with the best elite. Single objects are predicted as well from the last
    ring, so places may be worse by a little: they know objects beyond the reach.

    Args:
      holdout: held-out episodes.
    """
    spec = net.spec
    if not spec.rings:
        return jnp.zeros(1, bool)

    def off(found: Array, true: Array) -> jax.Array:
        square = jnp.square(found - true)
        return jnp.stack(
            [jnp.mean(square[:, spec.slices[f.name]], axis=1) for f in spec.rings], axis=1
        )

    def error(resting: bool) -> jax.Array:
        tried = model._replace(resting=jnp.full(len(spec.rings), resting))
        return _open_loop_errors(net, tried, holdout, off)

    return error(True) <= RESTING_TIE * error(False)


def fixed_vectors(net: DynamicsNetwork, model: Model, holdout: Dataset) -> jax.Array:
    """The vectors that are predicted better by the agent's turn than by the network, `[V]` bool.

    A network's small errors of a compass add up to a heading, and where actions are chosen by what
    the model predicts they are chosen for such errors. Compared are mean squared errors over all of
    RESTING_STEPS steps with logged actions, up to a bonus, with the best elite. Without rings there
    is no motion and no such vector.

    Args:
      holdout: held-out episodes.
    """
    spec, count = net.spec, len(net.spec.vectors)
    if not spec.rings or not count:
        return jnp.zeros(max(count, 1), bool)

    def off(found: Array, true: Array) -> jax.Array:
        return jnp.sum(jnp.square(take_planar(spec, found) - take_planar(spec, true)), axis=-1)

    def error(fixed: Array) -> jax.Array:
        return _open_loop_errors(net, model._replace(fixed=fixed), holdout, off)

    # One at a time: a velocity that only turns with the agent is wrong, and so is the motion then.
    alone = jnp.diagonal(jax.lax.map(error, jnp.eye(count, dtype=bool)))
    return alone < error(jnp.zeros(count, bool))


def _open_loop_errors(
    net: DynamicsNetwork, model: Model, holdout: Dataset, off: Callable[[Array, Array], Array]
) -> jax.Array:
    """Sums `[K]` of errors over RESTING_STEPS steps from each of RESTING_STARTS held-out states.

    The best elite predicts, with the logged actions; what follows a bonus does not count.

    Args:
      off: predicted and true obs `[B, O]` to errors `[B, K]`.
    """
    spec = net.spec
    index = jnp.linspace(0, holdout.size - 1, min(holdout.size, RESTING_STARTS)).astype(jnp.int32)
    windows = take_windows(model.targets, holdout, index, RESTING_STEPS)

    def step(state: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, jax.Array]:
        action, true, fits = inputs
        state = predict(net, model, jnp.int32(0), state, action).next_state
        errors = off(object_map.observation(spec, state), true)
        return state, jnp.sum(jnp.where(fits[:, None], errors, 0.0), axis=0)

    logged = (windows.action, windows.obs, windows.fits_obs)
    by_step = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), logged)
    _, found = jax.lax.scan(step, object_map.begin(spec, windows.start), by_step)
    return jnp.sum(found, axis=0)


def empty_model(config: DynamicsConfig, spec: ObservationSpec, actions: int) -> Model:
    """A model of the structure and shapes of a fitted one, with arbitrary values."""
    state = init(config, spec, actions, jax.random.key(0))
    each, change = jnp.zeros(spec.size), jnp.zeros(spec.size + REWARDS)
    targets = Targets(change, change, change, jnp.zeros(max(len(spec.rings), 1)), jnp.zeros(2))
    elites = jnp.zeros(min(config.elites, config.members), jnp.int32)
    rings, zero = jnp.zeros(max(len(spec.rings), 1)), jnp.zeros(())
    vectors = jnp.zeros(max(len(spec.vectors), 1), bool)
    normalizer = Normalizer(each, each)
    return Model(state.best_params, elites, normalizer, targets, zero, rings > 0, rings, vectors)


class Prediction(NamedTuple):
    """The next state, and mean and standard deviation of the next observation and the reward.

    Attributes:
      next_state: `[..., S]`, see `object_map`.
      next_obs: `[..., O]` raw, by the network alone.
      reward: `[...]`, the usual part: that of approach if it is one, else the network's.
      bonus: `[...]`, the expected remainder of the reward.
      deviation: `[..., O + 2]` standard deviations of the three, as fitted to single transitions.
    """

    next_state: Array
    next_obs: Array
    reward: Array
    bonus: Array
    deviation: Array


def predict(
    net: DynamicsNetwork, model: Model, member: Array, state: Array, action: Array
) -> Prediction:
    """The prediction of one elite for a batch.

    Args:
      member: index among the elites.
      state: `[..., S]` raw, begun by `object_map.begin` or `episode_map.begin`.
      action: `[..., A]`.
    """
    next_obs, reward, log_variance, places = _predict_parts(net, model, member, state, action)
    next_state = object_map.state_of(net.spec, model.resting, next_obs, places)
    deviation = jnp.exp(0.5 * log_variance) * model.targets.size * model.targets.varies
    usual = _usual_reward(net, model, state, next_state, reward[..., 0])
    return Prediction(next_state, next_obs, usual, reward[..., 1], deviation)


def _predict_parts(
    net: DynamicsNetwork, model: Model, member: Array, state: Array, action: Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Next obs `[..., O]`, reward `[..., REWARDS]` and log variances of the network of one elite,
    and the moved places of the state."""
    obs = object_map.observation(net.spec, state)
    params = jax.tree.map(lambda x: x[model.elites[member]], model.params)
    next_obs, reward, log_variance, motion = _apply_member(
        net, params, model.normalizer, model.targets, obs, action
    )
    next_obs = _with_fixed(net.spec, model.fixed, obs, next_obs, motion)
    return next_obs, reward, log_variance, object_map.moved(net.spec, state, motion)


def _with_fixed(
    spec: ObservationSpec, fixed: Array, obs: Array, next_obs: Array, motion: Array
) -> jax.Array:
    """Next observations `[..., O]` in which the vectors `fixed [V]` follow from the turn.

    Args:
      obs: `[..., O]` raw, before the step.
      motion: `[..., 3]`, of which the last is the turn to the left in rad.
    """
    if not spec.rings or not spec.vectors:
        return next_obs
    turned = object_map.seen_from(motion.at[..., :2].set(0.0), take_planar(spec, obs))
    planar = jnp.where(fixed[:, None], turned, take_planar(spec, next_obs))
    return put_planar(spec, next_obs, planar)


def _usual_reward(
    net: DynamicsNetwork, model: Model, state: Array, next_state: Array, predicted: Array
) -> jax.Array:
    """The usual reward `[...]` of a step: that of approach if it is one, else the predicted one."""
    if not net.spec.rings:
        return predicted
    approached = approach.reward(net.spec, model.approach, state, next_state)
    return jnp.where(jnp.any(model.approach != 0.0), approached, predicted)


def _standardized_change(
    net: DynamicsNetwork, params: Any, targets: Targets, obs: Array, action: Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Predicted change and its log variance in standardized units, both `[..., O + REWARDS]`, and
    the motion `[..., 3]`.

    Args:
      params: of one member.
      obs: `[..., O]` normalized.
      action: `[..., A]`.
    """
    mean, log_variance, by_motion, motion = apply(net, params, obs, action)
    return mean + by_motion / targets.size, log_variance, motion


def _apply_member(
    net: DynamicsNetwork,
    params: Any,
    normalizer: Normalizer,
    targets: Targets,
    obs: Array,
    action: Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Next obs `[..., O]` raw, reward `[..., REWARDS]`, log variances of the changes, motion."""
    mean, log_variance, motion = _standardized_change(net, params, targets, normalizer(obs), action)
    change = (mean * targets.size + targets.shift) * targets.varies
    next_obs = clip_rings(net.spec, obs + change[..., :-REWARDS])
    return next_obs, change[..., -REWARDS:], log_variance, motion


def predict_elites(
    net: DynamicsNetwork, model: Model, state: Array, action: Array, count: int | None = None
) -> Prediction:
    """Predictions of the best `count` elites, or of all; every leaf has a leading axis `[K]`."""
    members = jnp.arange(model.elites.shape[0])[:count]
    return jax.vmap(lambda m: predict(net, model, m, state, action))(members)


class MeanPrediction(NamedTuple):
    """Mean prediction of the elites, and how far they disagree.

    Attributes:
      next_state: `[..., S]`, see `object_map`.
      reward: `[...]`, the usual part.
      disagreement: `[...]`, root mean square spread of the elites' next observations, in
        standardized units. Rings of resting objects do not count: they follow from the motion, and
        the direction of an object that is passed closely differs between any two motions.
    """

    next_state: Array
    reward: Array
    disagreement: Array


def predict_mean(
    net: DynamicsNetwork, model: Model, state: Array, action: Array, count: int | None = None
) -> MeanPrediction:
    """Mean of the elites' predictions for states `[..., S]` and actions `[..., A]`.

    Args:
      state: raw, begun by `object_map.begin` or `episode_map.begin`.
      count: how many elites predict, the best ones; None for all.
    """
    members = jnp.arange(model.elites.shape[0])[:count]
    next_obs, rewards, _, places = jax.vmap(lambda m: _predict_parts(net, model, m, state, action))(
        members
    )
    spread = jnp.var(next_obs / model.targets.size[:-REWARDS], axis=0)
    varies = model.targets.varies[:-REWARDS]
    if net.spec.rings:
        varies = varies * ~object_map.of_rings(net.spec, model.resting)
    disagreement = jnp.sqrt(jnp.sum(spread * varies, axis=-1) / jnp.maximum(jnp.sum(varies), 1.0))
    # Objects are averaged by their places, as the mean of two rings may show one object twice.
    mean, mean_places = next_obs.mean(axis=0), places.mean(axis=0)
    next_state = object_map.state_of(net.spec, model.resting, mean, mean_places)
    reward = _usual_reward(net, model, state, next_state, rewards[..., 0].mean(axis=0))
    return MeanPrediction(next_state, reward, disagreement)


@functools.partial(jit_compile_fast, static_argnums=0)
def predict_open_loop(net: DynamicsNetwork, model: Model, start: Array, action: Array) -> jax.Array:
    """The elites' mean predictions after each step of given actions, compiled.

    Args:
      start: `[M, O]` raw obs.
      action: `[M, H, A]`.

    Returns:
      `[M, H, O]` raw obs.
    """

    def step(state: Array, action: Array) -> tuple[Array, Array]:
        state = predict_mean(net, model, state, action).next_state
        return state, object_map.observation(net.spec, state)

    begun = object_map.begin(net.spec, start)
    found = jax.lax.scan(step, begun, jnp.moveaxis(action, 1, 0))[1]
    return jnp.moveaxis(found, 0, 1)


def clip_rings(spec: ObservationSpec, obs: jax.Array) -> jax.Array:
    """Clips rings to [0, 1]; other fields stay as they are."""
    return jnp.where(_ring_mask(spec, 0), jnp.clip(obs, 0.0, 1.0), obs)


def _ring_mask(spec: ObservationSpec, more: int) -> np.ndarray:
    """Whether each dimension belongs to a ring, `[O + more]` bool."""
    ring = [np.full(f.size, f.kind == "ring") for f in spec.fields]
    return np.concatenate([*ring, np.zeros(more, bool)])


def _fit_error(spec: ObservationSpec, error: Array) -> jax.Array:
    """Squared errors `[..., O + REWARDS]`; rings, which may jump, have the robust loss."""
    ring = _ring_mask(spec, REWARDS)
    return jnp.where(ring, losses.robust_square(error, ROBUST), jnp.square(error))


def _optimizer(config: DynamicsConfig) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))


def _trajectory_optimizer(config: DynamicsConfig) -> optax.GradientTransformation:
    settings = config.trajectory
    rate = optax.cosine_decay_schedule(settings.learning_rate, max(settings.steps, 1))
    # A gradient through many steps is rarely, but then very, large.
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _draw(step: Step, batch: int, size: int) -> jax.Array:
    """The transitions `[B]` of a member's step, from its bootstrap of the logs."""
    key = jax.random.fold_in(step.key, step.step)
    # One draw for all members, of which each takes its row: the same numbers wherever it is fitted.
    draw = jax.random.randint(key, (step.members, batch), 0, size)
    return _bootstrap(step.key, draw, size)[step.index]


def _descend(
    optimizer: optax.GradientTransformation, loss: Callable[[Any], jax.Array], member: Member
) -> tuple[Member, jax.Array]:
    """The member after one step of its optimizer, and the loss before it."""
    value, grads = jax.value_and_grad(loss)(member.params)
    updates, opt_state = optimizer.update(grads, member.optimizer)
    params: Any = optax.apply_updates(member.params, updates)
    return member._replace(params=params, optimizer=opt_state), value


def _keep_best(member: Member, error: Array) -> Member:
    """The member, with its current parameters as the best ones if their error is smaller."""
    better = error < member.best_error
    best = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), member.params, member.best_params
    )
    return member._replace(best_params=best, best_error=jnp.where(better, error, member.best_error))


def _loss(
    config: DynamicsConfig, net: DynamicsNetwork, targets: Targets, params: Any, batch: Any
) -> jax.Array:
    obs, action, target = batch
    mean, log_variance, _ = _standardized_change(net, params, targets, obs, action)
    fixed_error = jax.lax.stop_gradient(mean - target)
    fit = _fit_error(net.spec, mean - target)
    loss = fit + losses.gaussian_nll(fixed_error, log_variance)
    loss = jnp.sum(jnp.mean(loss, axis=0) * targets.varies) / jnp.sum(targets.varies)
    return loss + config.nearest_weight * _nearest_loss(net.spec, targets, obs, mean, target)


def _nearest_loss(
    spec: ObservationSpec, targets: Targets, obs: Array, mean: Array, target: Array
) -> jax.Array:
    """Robust error in the change of each ring's largest bin, the nearest object.

    The cost depends on the nearest object, whose change is a small part of the error of 16 bins
    that shift while the agent turns.
    """
    total = jnp.zeros(())
    for i, f in enumerate(spec.rings):
        where = spec.slices[f.name]
        size, shift = targets.size[where], targets.shift[where]
        now, guess, true = obs[:, where], mean[:, where], target[:, where]
        moved = _largest(now + guess * size + shift)
        moves = jnp.max(now + true * size + shift, axis=-1)
        error = (moved - moves) / targets.nearest[i]
        total += jnp.mean(losses.robust_square(error, ROBUST))
    return total / max(len(spec.rings), 1)


def _largest(x: Array) -> jax.Array:
    """The maximum over the last axis.

    The gradient of `jnp.max` compares each number with the maximum again. Where a compiler computes
    the numbers twice and rounds differently, none is equal, and the gradient is not a number.
    """
    index = jnp.argmax(jax.lax.stop_gradient(x), axis=-1, keepdims=True)
    return jnp.take_along_axis(x, index, axis=-1)[..., 0]


def _bootstrap(key: Array, draw: Array, size: int) -> jax.Array:
    """Maps draws `[E, B]` to each member's bootstrap resample of the logs, without storing it.

    The map is random but fixed for each member, so a member never sees about 37% of the logs.
    """
    members = draw.shape[0]
    salt = jax.random.bits(jax.random.fold_in(key, 2**31 - 1), (members, 2), jnp.uint32)
    x = (draw.astype(jnp.uint32) + salt[:, :1]) * jnp.uint32(2654435761)
    x = (x ^ (x >> 15) ^ salt[:, 1:]) * jnp.uint32(2246822519)
    x = (x ^ (x >> 13)) * jnp.uint32(3266489917)
    return ((x ^ (x >> 16)) % jnp.uint32(size)).astype(jnp.int32)
