"""Where a whole logged episode shows objects, as the places of states that worlds begin with.

One observation shows the objects that are within reach and that none hides, and after a goal is
reached, nothing tells where the next ones may be. Worlds that know no more grow empty: what was
hidden at their start never appears, and goals that are drawn anywhere around the agent lead it away
from all else. But a logged episode has shown more than its observation at a time. The predicted
motions of the agent, added up, tell from where it was seen, and so

- hidden objects of resting rings get their places, from the observations within NEIGHBORHOOD steps;
- a ring that bonuses draw anew gets the places where the episode shows it at other times, from
  which imagined bonuses draw (`object_map.elsewhere`).
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
# Objects count as seen from within this share of a ring's reach: where they are is known there.
NEAR = 0.33
# By which an object that should be seen may exceed what a ring shows, as closeness.
TOLERANCE = 0.05
# Of the observations in which a ring that shows single objects shows at most one.
SINGLE_SHARE = 0.99


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


def begin(
    spec: ObservationSpec, resting: Array, redrawn: Array, obs: Array, route: Route, rows: Array
) -> jax.Array:
    """The states `[K, S]` that begin at observations `rows [K]`, with all that is known there.

    Args:
      spec: of the observation.
      resting: `[R]` bool, the rings of resting objects.
      redrawn: `[R]` bool, the rings of single objects that a bonus draws anew.
      obs: `[N + episodes, O]` raw.
      route: of the agent.
      rows: int32.
    """
    if not spec.rings:
        return obs[rows]
    on_device = jax.tree.map(jnp.asarray, route)
    states = _with_hidden(spec, resting, redrawn, obs, on_device, jnp.asarray(rows))
    return object_map.with_elsewhere(
        spec, states, _elsewhere(spec, resting & redrawn, obs, route, rows)
    )


@functools.partial(jax.jit, static_argnums=0)
def single(spec: ObservationSpec, obs: Array) -> jax.Array:
    """Which rings show at most one object in nearly all observations `[N, O]`, `[R]` bool."""
    places = object_map.places_by_ring(spec, object_map.begin(spec, obs))
    counts = [jnp.sum(_is_somewhere(x), axis=-1) for x in places]
    return jnp.stack([jnp.mean(count <= 1) >= SINGLE_SHARE for count in counts])


@functools.partial(jax.jit, static_argnums=0)
def _with_hidden(
    spec: ObservationSpec, resting: Array, redrawn: Array, obs: Array, route: Route, rows: Array
) -> jax.Array:
    """States `[K, O + M]` with the hidden objects of resting rings."""
    own = [places for places in object_map.places_by_ring(spec, object_map.begin(spec, obs[rows]))]
    shown = [obs[rows][:, spec.slices[f.name]] for f in spec.rings]
    offsets = np.arange(STRIDE, NEIGHBORHOOD + 1, STRIDE)
    offsets = jnp.asarray(np.stack([-offsets, offsets], axis=1).ravel())

    def look(own: list[jax.Array], offset: Array) -> tuple[list[jax.Array], None]:
        there = jnp.clip(rows + offset, 0, len(obs) - 1)
        same = route.episode[there] == route.episode[rows]
        found = object_map.places_by_ring(spec, object_map.begin(spec, obs[there]))
        for i, f in enumerate(spec.rings):
            # A ring that is drawn anew shows one object, until the next bonus.
            known = jnp.any(_is_somewhere(own[i]), axis=1) | (route.draw[there] != route.draw[rows])
            usable = resting[i] & same & ~(redrawn[i] & known)
            points = _seen_from(route.pose[there], route.pose[rows], found[i])
            hidden = object_map.shown_by(f, points[:, :, None]) <= shown[i][:, None] + TOLERANCE
            distance = jnp.sqrt(jnp.sum(jnp.square(found[i]), axis=-1))
            fits = usable[:, None] & jnp.all(hidden, axis=-1) & (distance < NEAR * f.reach)
            own[i] = _add(own[i], points, fits)
        return own, None

    own, _ = jax.lax.scan(look, own, offsets)
    flat = [x.reshape(len(rows), -1) for x in own]
    return jnp.concatenate([obs[rows], *flat], axis=-1)


def _add(own: Array, points: Array, fits: Array) -> jax.Array:
    """Places `[K, n, 2]` with those of the points `[K, m, 2]` that fit, are new, and find room."""

    def add(own: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        point, fits = inputs
        free = ~_is_somewhere(own)
        near = jnp.sqrt(jnp.sum(jnp.square(own - point[:, None]), axis=-1)) < SAME
        new = fits & jnp.any(free, axis=1) & ~jnp.any(near, axis=1)
        slot = jnp.arange(own.shape[1]) == jnp.argmax(free, axis=1)[:, None]
        return jnp.where((slot & new[:, None])[..., None], point[:, None], own), None

    return jax.lax.scan(add, own, (points.swapaxes(0, 1), fits.swapaxes(0, 1)))[0]


def _elsewhere(
    spec: ObservationSpec, chosen: Array, obs: Array, route: Route, rows: Array
) -> jax.Array:
    """Where chosen rings `[R]` show their objects between other bonuses, `[K, R, SPARE, 2]`."""
    chosen, episode, draw = (np.asarray(x) for x in (chosen, route.episode, route.draw))
    at = np.asarray(rows)
    found = np.full((len(at), len(spec.rings), object_map.SPARE, 2), object_map.NOWHERE, np.float32)
    # Rows with the same episode and number of bonuses follow each other.
    starts = np.flatnonzero((np.diff(episode, prepend=-1) != 0) | (np.diff(draw, prepend=-1) != 0))
    for i in np.flatnonzero(chosen):
        ring = np.asarray(obs[:, spec.slices[spec.rings[i].name]]).max(axis=1)
        ends = [*starts[1:], len(ring)]
        best = np.array([a + np.argmax(ring[a:b]) for a, b in zip(starts, ends, strict=True)])
        best = best[ring[best] > 0.0]
        states = jax.jit(object_map.begin, static_argnums=0)(spec, obs[best])
        points = np.asarray(object_map.places_by_ring(spec, states)[i])
        nearest = np.argmin(np.square(points).sum(axis=-1), axis=1)
        points = points[np.arange(len(best)), nearest]
        for k, row in enumerate(at):
            same = np.flatnonzero(episode[best] == episode[row])
            order = np.argsort(np.abs(draw[best[same]] - draw[row]), kind="stable")
            same = same[order][: object_map.SPARE]
            there, here = route.pose[best[same]], np.broadcast_to(route.pose[row], (len(same), 3))
            found[k, i, : len(same)] = _seen_from(there, here, points[same][:, None])[:, 0]
    return jnp.asarray(found)


def _seen_from(there: Array, here: Array, places: Array) -> Array:
    """Places `[K, n, 2]` that are seen from poses `there [K, 3]`, as seen from `here [K, 3]`."""
    x, y = places[..., 0], places[..., 1]
    cos, sin = jnp.cos(there[:, 2:]), jnp.sin(there[:, 2:])
    x, y = (
        there[:, :1] + cos * x - sin * y - here[:, :1],
        there[:, 1:2] + sin * x + cos * y - here[:, 1:2],
    )
    cos, sin = jnp.cos(here[:, 2:]), jnp.sin(here[:, 2:])
    return jnp.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)


def _is_somewhere(places: Array) -> Array:
    """Whether places `[..., 2]` are those of an object."""
    return jnp.abs(places[..., 0]) < object_map.NOWHERE / 2
