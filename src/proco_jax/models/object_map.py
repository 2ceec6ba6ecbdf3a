"""Where the objects are that rings show, as a part of imagined states.

A ring shows the nearest object of each bin and hides what is behind it. A model that predicts one
ring from the last reads the objects anew in every step. Small errors of their directions then add
up, those that bring an object nearer hide the others, and after 25 steps everything seems closer
than it is; what was hidden once is forgotten. An imagined state `[..., S]` is therefore

- an observation, O numbers;
- the places of all objects that were seen when it began, M numbers. Each predicted motion of the
  agent moves them as a whole, and the rings of resting objects are shown from them;
- in worlds that a policy is improved in, also the places from which bonuses draw rings anew.

Which rings show resting objects is decided on held-out logs, see `dynamics.resting_rings`. Objects
that were hidden when the state began stay unknown, unless it was begun by `episode_map`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.models.ring_motion import fractions_by_neighbors, show_objects, shown_share
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Array

# How often what a ring shows is searched for objects that those found so far do not explain, and
# the closeness by which it must exceed them.
SEARCHES, TOLERANCE = 3, 0.02
# Where the objects of bins are that show none, in meters: beyond the reach of any ring.
NOWHERE = 1e6
# Places of each ring from which a bonus draws, if a state has them.
SPARE = 8
# In meters: a bonus draws no place that is nearer to the agent, it has just been there.
REACHED = 0.6


def begin(spec: ObservationSpec, obs: Array) -> jax.Array:
    """The imagined state `[..., O + M]` that begins with an observation `[..., O]`.

    M is twice the number of all rings' bins, 0 without rings.
    """
    return joined(obs, [_located(obs[..., spec.slices[f.name]], f.reach) for f in spec.rings])


def joined(obs: Array, places: list[jax.Array]) -> jax.Array:
    """The state of an observation `[..., O]` and each ring's places `[..., n, 2]`."""
    return jnp.concatenate([obs, *(x.reshape(*obs.shape[:-1], -1) for x in places)], axis=-1)


def observation(spec: ObservationSpec, state: Array) -> jax.Array:
    """The observation `[..., O]` of an imagined state `[..., S]`."""
    return state[..., : spec.size]


def moved(spec: ObservationSpec, state: Array, motion: Array) -> jax.Array:
    """All places of a state `[..., S]` after a motion: all of its numbers but the observation.

    Args:
      motion: `[..., 3]` of the agent in its own frame: ahead and left in meters, turn to the left
        in rad.
    """
    places = state[..., spec.size :]
    return seen_from(motion, places.reshape(*places.shape[:-1], -1, 2)).reshape(places.shape)


def seen_from(pose: Array, places: Array) -> jax.Array:
    """Places `[..., n, 2]` in the frame of a pose.

    Args:
      pose: `[..., 3]` ahead and left in meters, heading to the left in rad, as are the places.
    """
    x, y = places[..., 0] - pose[..., :1], places[..., 1] - pose[..., 1:2]
    cos, sin = jnp.cos(pose[..., 2:]), jnp.sin(pose[..., 2:])
    return jnp.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)


def state_of(spec: ObservationSpec, resting: Array, obs: Array, places: Array) -> jax.Array:
    """A state `[..., S]` in which the rings of resting objects are shown from their places.

    Args:
      resting: `[R]` bool, which rings these are; not read without rings.
      obs: `[..., O]`, from which all else is taken.
      places: all other numbers of the state, from `moved`.
    """
    if not spec.rings:
        return obs
    rings = jnp.where(of_rings(spec, resting), _shown(spec, places[..., : _size(spec)]), obs)
    return jnp.concatenate([rings, places], axis=-1)


def relocated(spec: ObservationSpec, state: Array, again: Array) -> jax.Array:
    """A state whose objects are located again from its rings, where `again [..., O]` says so."""
    if not spec.rings:
        return state
    places = begin(spec, observation(spec, state))[..., spec.size :]
    ring = [again[..., spec.slices[f.name]] for f in spec.rings]
    each = jnp.repeat(jnp.concatenate(ring, axis=-1), 2, axis=-1)
    end = spec.size + _size(spec)
    kept = jnp.where(each, places, state[..., spec.size : end])
    return jnp.concatenate([observation(spec, state), kept, state[..., end:]], axis=-1)


def with_elsewhere(spec: ObservationSpec, state: Array, places: Array) -> jax.Array:
    """A state `[..., O + M]` that also knows where bonuses may draw rings anew.

    Args:
      places: `[..., R, SPARE, 2]` in the agent's frame, NOWHERE where there are fewer.
    """
    return jnp.concatenate([state, places.reshape(*state.shape[:-1], -1)], axis=-1)


def elsewhere(spec: ObservationSpec, key: Array, state: Array, again: Array) -> jax.Array:
    """States `[N, S]` with rings `again [N, R]` drawn from their other places, if they have any.

    A ring then shows one object, at a place drawn uniformly from those farther than REACHED from
    the agent.
    """
    end = spec.size + _size(spec)
    if not spec.rings or state.shape[-1] == end:
        return state
    spare = state[..., end:].reshape(len(state), len(spec.rings), SPARE, 2)
    far = distance(spare)
    usable = (far > REACHED) & known(far)
    score = jnp.where(usable, jax.random.uniform(key, usable.shape), -1.0)
    index = jnp.argmax(score, axis=-1)[..., None, None]
    drawn = jnp.take_along_axis(spare, index, axis=2)[:, :, 0]
    again = again & jnp.any(usable, axis=-1)
    parts, obs = [], observation(spec, state)
    for i, f in enumerate(spec.rings):
        places = places_by_ring(spec, state)[i]
        alone = jnp.full_like(places, NOWHERE).at[:, 0].set(drawn[:, i])
        now = again[:, i, None]
        parts.append(jnp.where(now[..., None], alone, places))
        where = spec.slices[f.name]
        obs = obs.at[:, where].set(jnp.where(now, shown_by(f, alone), obs[:, where]))
    return jnp.concatenate([joined(obs, parts), state[..., end:]], axis=-1)


def nearest(spec: ObservationSpec, state: Array) -> jax.Array:
    """Distance in meters to the nearest object of each ring, `[..., R]`; about NOWHERE for none.

    Args:
      state: `[..., S]`.
    """
    places = places_by_ring(spec, state)
    return jnp.stack([jnp.min(distance(place), axis=-1) for place in places], axis=-1)


def places_by_ring(spec: ObservationSpec, state: Array) -> list[jax.Array]:
    """The places of each ring's objects, `[..., n, 2]`, of a state `[..., S]`."""
    return _by_ring(spec, state[..., spec.size : spec.size + _size(spec)])


def distance(place: Array) -> jax.Array:
    """Distance `[...]` in meters of places `[..., 2]` from the agent."""
    return jnp.sqrt(jnp.sum(jnp.square(place), axis=-1))


def known(distance: Array) -> jax.Array:
    """Whether distances are those of an object, not of NOWHERE."""
    return distance < NOWHERE / 2


def shown_by(f: Field, place: Array) -> jax.Array:
    """What a ring shows of objects at `[..., n, 2]`, as the simulator's lidar: `[..., bins]`."""
    closeness = jnp.clip(1.0 - distance(place) / f.reach, 0.0, 1.0)
    position = jnp.arctan2(place[..., 1], place[..., 0]) * (f.size / (2.0 * math.pi))
    beyond = position[..., None] - jnp.arange(f.size)
    beyond = (beyond + f.size / 2) % f.size - f.size / 2
    return jnp.max(closeness[..., None] * shown_share(beyond), axis=-2)


def of_rings(spec: ObservationSpec, each: Array) -> jax.Array:
    """A value of each ring `[R]`, for every number of the observation `[O]`; 0 outside of rings."""
    names = [f.name for f in spec.rings]
    index = [
        np.full(f.size, names.index(f.name) if f.name in names else len(names)) for f in spec.fields
    ]
    return jnp.append(each[: len(names)], False)[np.concatenate(index)]


def _located(ring: Array, reach: float) -> jax.Array:
    """The position of each bin's object in the agent's frame, `[..., n, 2]`, from `[..., n]`."""
    bins = ring.shape[-1]
    fraction = _fraction(ring)
    explained, found = jnp.zeros_like(ring), jnp.zeros(ring.shape, bool)
    for i in range(SEARCHES):
        left = jnp.where(ring > explained + (TOLERANCE if i else 1e-6), ring, 0.0)
        ahead, behind = jnp.roll(left, -1, axis=-1), jnp.roll(left, 1, axis=-1)
        new = (left >= ahead) & (left > behind)
        closeness = jnp.where(new, ring, 0.0)
        explained = jnp.maximum(explained, show_objects(closeness, fraction, 1, axis=-1))
        found = found | new
    angle = (jnp.arange(bins) + fraction) * (2.0 * math.pi / bins)
    distance = reach * (1.0 - ring)
    place = distance[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jnp.where(found[..., None], place, NOWHERE)


def _fraction(ring: Array) -> jax.Array:
    """How far through its bin the object of each bin is, in [0, 1].

    The bins beside it tell, unless they show objects of their own, which show in the bins beyond,
    too: of the two, the one is trusted beyond which less is seen.
    """
    by_ahead, by_behind = fractions_by_neighbors(ring, axis=-1)
    beyond_ahead = jnp.square(jnp.roll(ring, -2, axis=-1) + 1e-3)
    beyond_behind = jnp.square(jnp.roll(ring, 2, axis=-1) + 1e-3)
    total = beyond_ahead + beyond_behind
    return (by_ahead * beyond_behind + by_behind * beyond_ahead) / total


def _shown(spec: ObservationSpec, places: Array) -> jax.Array:
    """What rings show of objects, `[..., O]`, 0 outside of rings, from `[..., M]`."""
    by_ring = zip(spec.rings, _by_ring(spec, places), strict=True)
    shown = {f.name: shown_by(f, place) for f, place in by_ring}
    blank = {f.name: jnp.zeros((*places.shape[:-1], f.size)) for f in spec.fields}
    return jnp.concatenate([(blank | shown)[f.name] for f in spec.fields], axis=-1)


def _size(spec: ObservationSpec) -> int:
    """M, how many numbers say where objects are."""
    return 2 * sum(f.size for f in spec.rings)


def _by_ring(spec: ObservationSpec, places: Array) -> list[jax.Array]:
    """The places `[..., M]` of each ring's objects, `[..., n, 2]`."""
    ends = np.cumsum([2 * f.size for f in spec.rings])
    parts = jnp.split(places, ends[:-1], axis=-1)
    return [part.reshape(*part.shape[:-1], -1, 2) for part in parts]
