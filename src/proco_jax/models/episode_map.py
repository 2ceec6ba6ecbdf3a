"""Where a whole logged episode shows objects, as the places of states that worlds begin with.

One observation shows the objects that are within reach and that none hides, and once a goal is
reached, nothing tells where the next one may be. Worlds that know no more grow empty: what was
hidden at their start never appears, and goals that are drawn anywhere around the agent lead it away
from all else. A logged episode shows more than any one of its observations. The predicted motions
of the agent, added up, tell from where each was made, and so

- hidden objects that rest get their places, from the observations within NEIGHBORHOOD steps;
- a ring of single objects that bonuses draw anew gets the places that its object had before earlier
  bonuses or has after later ones, from which imagined bonuses draw (`object_map.elsewhere`).

Policies that are improved in such worlds depend on the numbers below, which no setting names: who
changes one raises `pipeline.policies.VERSION`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.models import object_map
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# Observations that are searched for hidden objects: so many steps before and after, every so many.
NEIGHBORHOOD, STRIDE = 200, 10
# Objects of a ring that are nearer than this, in meters, are the same.
SAME = 0.35
# An object is added only if it was seen from within this share of a ring's reach, where its
# position is known well.
NEAR = 0.33
# By which an object that should be seen may exceed what a ring shows, as closeness.
TOLERANCE = 0.05
# A ring shows single objects if at least this share of its observations shows at most one.
SINGLE_SHARE = 0.99
# Objects of a ring rest if so many steps later at least this share of those seen from near is still
# seen where it was, up to a closeness.
LATER, STILL_SHARE, STILL_TOLERANCE = 100, 0.9, 0.08


class Route(NamedTuple):
    """Where the agent was at each logged observation.

    Attributes:
      pose: `[N + episodes, 3]` ahead and left of the episode's first pose in meters, and heading to
        its left in rad.
      episode: `[N + episodes]` int32.
      draw: `[N + episodes]` int32, bonuses of the episode so far.
    """

    pose: Array
    episode: Array
    draw: Array


def route(data: Dataset, motion: np.ndarray, bonus: np.ndarray) -> Route:
    """The route of all episodes.

    Args:
      data: the logs.
      motion: `[N, 3]` of the agent in its own frame in each transition, as `object_map.moved`.
      bonus: `[N]` bool, whether the transition earned a bonus.
    """
    at = np.asarray(data.obs_index)
    rows = len(data.obs)
    pose, episode = np.zeros((rows, 3)), np.zeros(rows, np.int32)
    draw = np.zeros(rows, np.int32)
    of, begins = np.asarray(data.episode), np.flatnonzero(np.asarray(data.step) == 0)
    for begin, end in zip(begins, [*begins[1:], len(at)], strict=True):
        step = np.asarray(motion[begin:end], np.float64)
        first, last = at[begin], at[end - 1] + 2
        heading = np.concatenate([[0.0], np.cumsum(step[:, 2])])
        cos, sin = np.cos(heading[:-1]), np.sin(heading[:-1])
        pose[first + 1 : last, 0] = np.cumsum(cos * step[:, 0] - sin * step[:, 1])
        pose[first + 1 : last, 1] = np.cumsum(sin * step[:, 0] + cos * step[:, 1])
        pose[first:last, 2] = heading
        episode[first:last] = of[begin]
        draw[first + 1 : last] = np.cumsum(bonus[begin:end])
    return Route(np.float32(pose), episode, draw)


class Rings(NamedTuple):
    """What the objects of rings do, `[R]` bool each.

    Attributes:
      resting: they are shown from their places (`dynamics.resting_rings`).
      redrawn: a bonus draws them anew (`bonus.redrawn_rings`).
      single: the ring shows one at most.
      still: they rest for as long as the map looks around.
    """

    resting: Array
    redrawn: Array
    single: Array
    still: Array


def find_rings(
    spec: ObservationSpec, resting: Array, redrawn: Array, obs: Array, route: Route, rows: Array
) -> Rings:
    """Which objects are single and still, by the observations `rows [K]`.

    Args:
      spec: of the observation, with rings.
      resting: as in `Rings`.
      redrawn: as in `Rings`.
      obs: `[N + episodes, O]` raw.
      route: of the agent.
      rows: int32.
    """
    on_device = jax.tree.map(jnp.asarray, (route, rows))
    found = _single_and_still(spec, redrawn, obs, *on_device)
    return Rings(resting, redrawn, *found)


@functools.partial(jax.jit, static_argnums=0)
def _single_and_still(
    spec: ObservationSpec, redrawn: Array, obs: Array, route: Route, rows: Array
) -> tuple[jax.Array, jax.Array]:
    later = jnp.minimum(rows + LATER, len(obs) - 1)
    same = (route.episode[later] == route.episode[rows]) & (later == rows + LATER)
    places = object_map.places_by_ring(spec, object_map.begin(spec, obs[rows]))
    single, still = [], []
    for i, f in enumerate(spec.rings):
        single.append(jnp.mean(jnp.sum(_is_somewhere(places[i]), axis=1) <= 1) >= SINGLE_SHARE)
        counts = same & (~redrawn[i] | (route.draw[later] == route.draw[rows]))
        seen = counts[:, None] & (object_map.distance(places[i]) < NEAR * f.reach)
        points = _seen_from(route.pose[rows], route.pose[later], places[i])
        expected = object_map.shown_by(f, points[:, :, None])
        shown = obs[later][:, None, spec.slices[f.name]]
        # Direction and drift may shift what is seen to the bin beside.
        shown = jnp.maximum(shown, jnp.maximum(jnp.roll(shown, 1, -1), jnp.roll(shown, -1, -1)))
        kept = jnp.all(expected <= shown + STILL_TOLERANCE, axis=-1)
        still.append(jnp.sum(seen & kept) >= STILL_SHARE * jnp.sum(seen))
    return jnp.stack(single), jnp.stack(still)


def begin(
    spec: ObservationSpec, rings: Rings, obs: Array, route: Route, rows: np.ndarray
) -> jax.Array:
    """The states `[K, S]` that begin at observations `rows [K]`, with all that is known there.

    Args:
      spec: of the observation, with rings.
      rings: from `find_rings`.
      obs: `[N + episodes, O]` raw.
      route: of the agent.
      rows: int32.
    """
    on_device = jax.tree.map(jnp.asarray, (route, rows))
    states = _with_hidden(spec, rings, obs, *on_device)
    return object_map.with_elsewhere(spec, states, _elsewhere(spec, rings, obs, route, rows))


@functools.partial(jax.jit, static_argnums=0)
def _with_hidden(
    spec: ObservationSpec, rings: Rings, obs: Array, route: Route, rows: Array
) -> jax.Array:
    """States `[K, O + M]` with the hidden objects of still rings."""
    own = object_map.places_by_ring(spec, object_map.begin(spec, obs[rows]))
    shown = [obs[rows][:, spec.slices[f.name]] for f in spec.rings]
    offsets = np.arange(STRIDE, NEIGHBORHOOD + 1, STRIDE)
    offsets = jnp.asarray(np.stack([-offsets, offsets], axis=1).ravel())
    searched = rings.resting & rings.still

    def look(own: list[jax.Array], offset: Array) -> tuple[list[jax.Array], None]:
        there = jnp.clip(rows + offset, 0, len(obs) - 1)
        same = route.episode[there] == route.episode[rows]
        same_draw = route.draw[there] == route.draw[rows]
        found = object_map.places_by_ring(spec, object_map.begin(spec, obs[there]))
        for i, f in enumerate(spec.rings):
            enough = rings.single[i] & jnp.any(_is_somewhere(own[i]), axis=1)
            usable = searched[i] & same & ~enough & (~rings.redrawn[i] | same_draw)
            points = _seen_from(route.pose[there], route.pose[rows], found[i])
            hidden = object_map.shown_by(f, points[:, :, None]) <= shown[i][:, None] + TOLERANCE
            near = object_map.distance(found[i]) < NEAR * f.reach
            own[i] = _add(own[i], points, usable[:, None] & near & jnp.all(hidden, axis=-1))
        return own, None

    return object_map.joined(obs[rows], jax.lax.scan(look, own, offsets)[0])


def _add(own: Array, points: Array, fits: Array) -> jax.Array:
    """Places `[K, n, 2]` with those of the points `[K, m, 2]` that fit, are new, and find room."""

    def add(own: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        point, fits = inputs
        free = ~_is_somewhere(own)
        near = object_map.distance(own - point[:, None]) < SAME
        new = fits & jnp.any(free, axis=1) & ~jnp.any(near, axis=1)
        slot = jnp.arange(own.shape[1]) == jnp.argmax(free, axis=1)[:, None]
        return jnp.where((slot & new[:, None])[..., None], point[:, None], own), None

    return jax.lax.scan(add, own, (points.swapaxes(0, 1), fits.swapaxes(0, 1)))[0]


def _elsewhere(
    spec: ObservationSpec, rings: Rings, obs: Array, route: Route, rows: np.ndarray
) -> np.ndarray:
    """The places of redrawn single objects between bonuses, `[K, R, SPARE, 2]`, as seen from rows.

    Those before and after the fewest bonuses, the present one among them.
    """
    episode, draw = np.asarray(route.episode), np.asarray(route.draw)
    count = object_map.SPARE
    found = np.full((len(rows), len(spec.rings), count, 2), object_map.NOWHERE, np.float32)
    # Between two bonuses an object is located where it is seen from nearest.
    first = np.flatnonzero((np.diff(episode, prepend=-1) != 0) | (np.diff(draw, prepend=-1) != 0))
    last = [*first[1:], len(episode)]
    for i in np.flatnonzero(rings.resting & rings.redrawn & rings.single):
        ring = np.asarray(obs[:, spec.slices[spec.rings[i].name]]).max(axis=1)
        best = np.array([a + np.argmax(ring[a:b]) for a, b in zip(first, last, strict=True)])
        best = best[ring[best] > 0.0]
        if not len(best):
            continue
        states = object_map.begin(spec, obs[best])
        points = np.asarray(object_map.places_by_ring(spec, states)[i])
        nearest = np.argmin(np.square(points).sum(axis=-1), axis=1)
        points = points[np.arange(len(best)), nearest]
        low = np.searchsorted(episode[best], episode[rows], side="left")
        high = np.searchsorted(episode[best], episode[rows], side="right")
        own = np.searchsorted(best, rows)
        begin = np.maximum(np.minimum(own - count // 2, high - count), low)
        at = begin[:, None] + np.arange(count)
        known = (at < high[:, None])[..., None]
        at = np.minimum(at, len(best) - 1)
        there, here = route.pose[best[at]], route.pose[rows][:, None]
        places = _seen_from(there, here, points[at][:, :, None])[:, :, 0]
        found[:, i] = np.where(known, places, object_map.NOWHERE)
    return found


def _seen_from(there: Array, here: Array, places: Array) -> jax.Array:
    """Places `[..., n, 2]` that are seen from poses `there [..., 3]`, as seen from `here`."""
    x, y = places[..., 0], places[..., 1]
    cos, sin = jnp.cos(there[..., 2:]), jnp.sin(there[..., 2:])
    x, y = there[..., :1] + cos * x - sin * y, there[..., 1:2] + sin * x + cos * y
    return object_map.seen_from(here, jnp.stack([x, y], axis=-1))


def _is_somewhere(places: Array) -> jax.Array:
    """Whether places `[..., 2]` are those of an object."""
    return object_map.known(object_map.distance(places))
