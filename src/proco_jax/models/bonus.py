"""The event model of rare bonuses: how likely an action earns one, e.g. because it reaches a goal.

As a dimension of the dynamics' regression a bonus is blurred over the states around it. Here it is
an event with a probability, fitted by a weighted cross-entropy in which events are drawn far more
often than they occur; the weights and a shift of the logit restore their frequency in the logs. Of
an ensemble the least probability counts, so that imagined bonuses have to convince all members.
What decides about an event is how near the nearest objects are, far more finely than closeness
tells: each ring's largest bin is therefore standardized by its values at the logged events.

A bonus may also draw a part of the world anew, as a reached goal moves to a random place. These are
the fields that change far more in the logged events than elsewhere; in imagination they are drawn
from what followed the logged events, a ring of single objects from the places that the state knows
for it (`object_map.elsewhere`), and all else goes on as the dynamics predict.
"""

import functools
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from proco_jax.config.schema import BonusConfig
from proco_jax.models import object_map
from proco_jax.models.adam_fit import adam_fit
from proco_jax.models.dynamics_targets import Targets, is_bonus, split_reward
from proco_jax.models.networks import apply, with_saturation
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# The share of a batch that is drawn from the events, and their weight beyond their frequency, which
# is taken from the logit afterwards.
EVENT_SHARE = 0.25
EVENT_WEIGHT = 10.0
# Of the standardized closeness of the nearest objects.
CLIP = 10.0
# How many times as much as elsewhere a field changes at an event that draws it anew.
REDRAWN = 3.0
# Logged observations after events that are kept, and transitions that events are compared with.
KEPT, COMPARED = 1024, 20_000


class BonusModel(NamedTuple):
    """A fitted event model.

    Attributes:
      params: of the network, with leading axis `[E]`.
      center: `[R]` median of each ring's largest bin at the events; `[1]` without rings.
      spread: `[R]` its range from the 10% to the 90% quantile.
      normalizer: of the observations.
      size: the median bonus of the logs; 0 if they hold none.
      redrawn: `[O]` bool, what a bonus draws anew.
      after: `[KEPT, O]` raw, logged observations after events, drawn at random.
    """

    params: Any
    center: Array
    spread: Array
    normalizer: Normalizer
    size: Array
    redrawn: Array
    after: Array


class BonusNetwork(nn.Module):
    """Logits `[...]` of the event, from the features that `_features` makes."""

    hidden: int = 64
    near_hidden: int = 16

    @nn.compact
    def __call__(self, near: jax.Array, obs: jax.Array, action: jax.Array) -> jax.Array:
        near = jnp.concatenate([near, jnp.tanh(near)], axis=-1)
        x = jnp.concatenate([near, obs, with_saturation(action)], axis=-1)
        x = nn.swish(nn.Dense(self.hidden)(x))
        if near.shape[-1]:
            x = jnp.concatenate([x, nn.Dense(self.near_hidden)(near)], axis=-1)
        return nn.Dense(1)(nn.swish(nn.Dense(self.hidden)(x)))[..., 0]


def probability(spec: ObservationSpec, model: BonusModel, obs: Array, action: Array) -> jax.Array:
    """The least probability `[...]` of a bonus over the ensemble; 0 if the logs hold none.

    Args:
      spec: of the observation.
      model: the fitted model.
      obs: `[..., O]` raw.
      action: `[..., A]`.
    """
    features = _features(spec, model, obs)

    def member(params: Any) -> jax.Array:
        return apply(BonusNetwork(), params, *features, action)

    logit = jnp.min(jax.vmap(member)(model.params), axis=0) - jnp.log(EVENT_WEIGHT)
    return jnp.where(model.size != 0, jax.nn.sigmoid(logit), 0.0)


def redraw(model: BonusModel, key: Array, next_obs: Array) -> jax.Array:
    """Observations `[N, O]` after a bonus, from those that would follow without one."""
    index = jax.random.randint(key, next_obs.shape[:1], 0, KEPT)
    return jnp.where(model.redrawn, model.after[index], next_obs)


def after_bonus(
    spec: ObservationSpec, model: BonusModel, key: Array, state: Array, occurs: Array
) -> jax.Array:
    """Imagined states `[N, S]` after a step in which a bonus may have occurred.

    Args:
      state: `[N, S]` that would follow without one, see `object_map`.
      occurs: `[N]` bool.
    """
    obs = object_map.observation(spec, state)
    draw_key, place_key = jax.random.split(key)
    again = occurs[:, None] & model.redrawn
    drawn = jnp.where(again, redraw(model, draw_key, obs), obs)
    state = object_map.relocated(spec, state.at[:, : spec.size].set(drawn), again)
    rings = occurs[:, None] & redrawn_rings(spec, model)
    return object_map.elsewhere(spec, place_key, state, rings)


def redrawn_rings(spec: ObservationSpec, model: BonusModel) -> jax.Array:
    """The rings that a bonus draws anew, `[R]` bool."""
    found = [jnp.any(model.redrawn[spec.slices[f.name]]) for f in spec.rings]
    return jnp.stack(found) if found else jnp.zeros(0, bool)


def redrawn_fields(
    spec: ObservationSpec, obs: np.ndarray, next_obs: np.ndarray, occurs: np.ndarray
) -> np.ndarray:
    """Which numbers of an observation an event draws anew, `[O]` bool.

    Args:
      spec: of the observation.
      obs: `[N, O]` raw, where actions are taken.
      next_obs: `[N, O]` raw, after them.
      occurs: `[N]` bool, at least one true and one false.
    """
    change = np.square(next_obs - obs)
    there, elsewhere = change[occurs].mean(axis=0), change[~occurs].mean(axis=0)
    redrawn = np.zeros(spec.size, bool)
    for part in spec.slices.values():
        redrawn[part] = there[part].mean() > REDRAWN**2 * elsewhere[part].mean()
    return redrawn


def fit(
    config: BonusConfig,
    spec: ObservationSpec,
    targets: Targets,
    normalizer: Normalizer,
    data: Dataset,
    key: Array,
) -> BonusModel:
    """Fits the event model to logs; nothing is fitted if they hold no bonus."""
    reward, usual = np.asarray(data.reward), np.asarray(targets.usual)
    occurs = is_bonus(targets._replace(usual=usual), reward)
    model = empty_model(config, spec, data.action.shape[-1])._replace(normalizer=normalizer)
    events = np.flatnonzero(occurs)
    if not len(events):
        return model
    size = np.float32(np.median(split_reward(reward[events], usual)[1]))
    center, spread = model.center, model.spread
    if spec.rings:
        near = np.asarray(_nearest(spec, data.obs[data.obs_index[events]]))
        low, middle, high = np.quantile(near, (0.1, 0.5, 0.9), axis=0)
        center, spread = np.float32(middle), np.float32(high - low + 1e-3)
    compared = np.union1d(events, np.linspace(0, data.size - 1, COMPARED).astype(int))
    at = np.asarray(data.obs_index)
    redrawn = redrawn_fields(
        spec,
        np.asarray(data.obs[at[compared]]),
        np.asarray(data.obs[at[compared] + 1]),
        occurs[compared],
    )
    key, after_key = jax.random.split(key)
    kept = np.asarray(jax.random.choice(after_key, events, (KEPT,)))
    model = BonusModel(
        model.params, center, spread, normalizer, size, redrawn, data.obs[at[kept] + 1]
    )
    model = jax.tree.map(jnp.asarray, model)
    run = jax.jit(functools.partial(_fit_members, config, spec))
    params = run(model, data, jnp.asarray(occurs), jnp.asarray(events), key)
    return model._replace(params=params)


def empty_model(config: BonusConfig, spec: ObservationSpec, actions: int) -> BonusModel:
    """A model of the structure and shapes of a fitted one, without a bonus."""
    each, near = jnp.zeros(spec.size), jnp.zeros(len(spec.rings))
    keys = jax.random.split(jax.random.key(0), config.members)
    inputs = (near, each, jnp.zeros(actions))
    params = jax.jit(jax.vmap(lambda k: BonusNetwork().init(k, *inputs)))(keys)
    # Orbax does not save empty arrays: without rings there is one entry that nothing reads.
    rings = max(len(spec.rings), 1)
    return BonusModel(
        params,
        center=jnp.zeros(rings),
        spread=jnp.ones(rings),
        normalizer=Normalizer(each, each),
        size=jnp.zeros(()),
        redrawn=jnp.zeros(spec.size, bool),
        after=jnp.zeros((KEPT, spec.size)),
    )


def event_weights(occurs: Array, share: Array, batch: int) -> Array:
    """Weights `[B]` under which a batch has the frequencies of the logs, events EVENT_WEIGHT fold.

    Args:
      occurs: `[B]` bool: `EVENT_SHARE` of the rows are drawn from the events, the others from all.
      share: of the events in the logs.
      batch: B.
    """
    drawn = round(EVENT_SHARE * batch)
    events = drawn + (batch - drawn) * share
    return jnp.where(occurs, EVENT_WEIGHT * share / events, 1.0 / (batch - drawn))


def event_loss(logit: Array, occurs: Array, weight: Array) -> jax.Array:
    """The weighted cross-entropy of a batch, from `[B]` logits, outcomes and weights."""
    chex.assert_equal_shape([logit, occurs, weight])
    errors = optax.sigmoid_binary_cross_entropy(logit, occurs.astype(logit.dtype))
    return jnp.sum(weight * errors)


def _fit_members(
    config: BonusConfig,
    spec: ObservationSpec,
    model: BonusModel,
    data: Dataset,
    occurs: Array,
    events: Array,
    key: Array,
) -> Any:
    """Fitted parameters of all members, leaves `[E, ...]`."""
    net = BonusNetwork()
    drawn = round(EVENT_SHARE * config.batch)
    share = jnp.float32(events.shape[0] / data.size)

    def loss(params: Any, key: Array) -> jax.Array:
        event_key, other_key = jax.random.split(key)
        index = jnp.concatenate(
            [
                events[jax.random.randint(event_key, (drawn,), 0, events.shape[0])],
                jax.random.randint(other_key, (config.batch - drawn,), 0, data.size),
            ]
        )
        features = _features(spec, model, data.obs[data.obs_index[index]])
        logit = apply(net, params, *features, data.action[index])
        return event_loss(logit, occurs[index], event_weights(occurs[index], share, config.batch))

    def member(inputs: tuple[Any, Array]) -> Any:
        params, key = inputs
        return adam_fit(loss, params, config.learning_rate, jax.random.split(key, config.steps))

    init_key, step_key = jax.random.split(key)
    like = (
        jnp.zeros(len(spec.rings)),
        jnp.zeros(spec.size),
        jnp.zeros(data.action.shape[-1]),
    )
    params = jax.vmap(lambda k: net.init(k, *like))(jax.random.split(init_key, config.members))
    return jax.lax.map(member, (params, jax.random.split(step_key, config.members)))


def _features(spec: ObservationSpec, model: BonusModel, obs: Array) -> tuple[jax.Array, jax.Array]:
    """Standardized closeness `[..., R]` of each ring's nearest object, normalized `[..., O]`."""
    count = len(spec.rings)
    near = (_nearest(spec, obs) - model.center[:count]) / model.spread[:count]
    return jnp.clip(near, -CLIP, CLIP), model.normalizer(obs)


def _nearest(spec: ObservationSpec, obs: Array) -> jax.Array:
    """Each ring's largest bin, `[..., R]`."""
    found = [jnp.max(obs[..., spec.slices[f.name]], axis=-1) for f in spec.rings]
    return jnp.stack(found, axis=-1) if found else jnp.asarray(obs[..., :0])
