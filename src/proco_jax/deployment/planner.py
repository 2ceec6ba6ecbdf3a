"""The planner of the shield: short-horizon searches in the learned model.

A step moves a robot by about a centimeter, so single actions hardly differ in Q_h; sequences that
last do differ. The planner compares the states to which sequences lead in the model:

1. by their *depth* in the set that the rules of the knowledge call unsafe, 0 outside of it, summed
   over the sequence. Within the set, or where it cannot be avoided, the depth leads back, which V_h
   does not: there it is the same everywhere;
2. of those of the same depth, by their *excess*, max(V_h - threshold, 0) of the last state: from a
   feasible one a violation can still be avoided;
3. of those of the same excess too, by the reward that the model predicts for them.

Without rules, e.g. where a language model labels states, the excess is summed over the sequence,
and counts states that the cost network calls unsafe. There are three kinds of sequences:

1. *The policy's own continuation*: its action, and what it would do next.
2. *Varied continuations*: the same with noise that lasts. A policy often knows the way around a
   hazard, and is only too close or too fast.
3. *Random sequences* of actions, whatever the policy would do.

The shield (`shield.py`) lets the policy act where its own continuation has neither depth nor excess
and is predicted to earn enough. Where it has one of them, the shield takes the first kind that has
a sequence with neither, and the best of it, or the best of all where no kind has one. Where it only
earns too little, it takes the best of all: near a hazard a policy that was learned from careful
logs may move back and forth, which is feasible and earns nothing, while other sequences lead on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.algorithms.base import Previous
from proco_jax.augmentation.rollouts import persistent_actions, unchanged
from proco_jax.types import Array

# States that are planned for in one batch, where the config leaves it open. A CPU computes no more
# than it must; an accelerator needs many rows to be busy.
CPU_BLOCK, ACCELERATOR_BLOCK = 1, 256
# Finite, so that the least depth and excess come before all others whatever the reward.
LEAST_REWARD = -float(jnp.finfo(jnp.float32).max)
# Without rules, V_h judges the state after every so many steps of a sequence and at its end. Rules
# judge every state: a speed may exceed its limit for a single step, and a search finds sequences
# that do so between judged states.
JUDGED_EVERY = 5


class Continuation(NamedTuple):
    """How a policy goes on after the first action that it proposes, in n states.

    Attributes:
      act: (key, carry, raw obs `[O]`, previous) to (action `[A]`, carry), in one state.
      carry: the policy's memory after its first action, leaves `[n, ...]`.
      key_data: `[n, ...]`, numbers of a key for each state, since blocks of rows are taken from it.
    """

    act: Callable[[Array, Any, Array, Previous], tuple[Array, Any]]
    carry: Any
    key_data: Array


class PlanningModel(NamedTuple):
    """What the planner asks of the model, as functions of raw observations and imagined states.

    Attributes:
      step: states `[C, S]` and actions `[C, A]` to next states `[C, S]` and reward `[C]`.
      excess: obs `[C, O]` to max(V_h - threshold, 0) `[C]`, or to more where a state is known to be
        unsafe.
      depth: obs `[C, O]` to how deep states are in the unsafe set `[C]`, 0 outside; None without
        rules.
      begin: obs `[..., O]` to the state `[..., S]` that an imagined trajectory begins with.
      observe: states to obs.
    """

    step: Callable[[Array, Array], tuple[Array, Array]]
    excess: Callable[[Array], Array]
    depth: Callable[[Array], Array] | None = None
    begin: Callable[[Array], Array] = unchanged
    observe: Callable[[Array], Array] = unchanged


class Judged(NamedTuple):
    """What the model says of C sequences, or of one.

    Attributes:
      depth: `[C]`, not finite only where the model diverges.
      excess: `[C]`, infinite where the model diverges.
      reward: `[C]` sum of the predicted rewards, without rare bonuses; LEAST_REWARD where the model
        diverges.
    """

    depth: Array
    excess: Array
    reward: Array


def make_plans(horizon: int, candidates: int, action_size: int, persistence: float) -> jax.Array:
    """The random action sequences `[H, C, A]`.

    They are always the same: with new ones at every step, a robot that has come to rest at the edge
    of the unsafe set takes another direction each time, and stays there.
    """
    return persistent_actions(jax.random.key(0), (horizon, candidates, action_size), persistence)


def persistent_noise(key: Array, shape: tuple[int, ...], persistence: Array | float) -> jax.Array:
    """Standard normal noise `[H, ...]` whose correlation falls to 1 / e in `persistence` steps."""
    kept = jnp.exp(-1.0 / jnp.maximum(jnp.asarray(persistence, jnp.float32), 1e-6))
    fresh = jax.random.normal(key, shape)

    def step(held: Array, new: Array) -> tuple[Array, Array]:
        held = kept * held + jnp.sqrt(1.0 - kept**2) * new
        return held, held

    return jnp.concatenate([fresh[:1], jax.lax.scan(step, fresh[0], fresh[1:])[1]])


def judge_policy(
    model: PlanningModel,
    act: Callable[[Array, Any, Array, Previous], tuple[Array, Any]],
    start: Array,
    carry: Any,
    first: Array,
    noise: Array,
    key: Array,
) -> Judged:
    """C continuations of a policy from one state, judged.

    Args:
      act: as in `Continuation`.
      start: `[O]` raw.
      carry: the policy's memory after its first action.
      first: `[C, A]` first actions.
      noise: `[H - 1, C, A]`, added to the following actions.
      key: typed key.
    """
    count, horizon = first.shape[0], noise.shape[0] + 1

    def many(x: Array) -> jax.Array:
        return jnp.broadcast_to(x, (count, *jnp.shape(x)))

    def ahead(state: tuple, inputs: tuple) -> tuple:
        imagined, action, memory, total = state
        shift, step_data, t = inputs
        imagined, reward = model.step(imagined, action)
        obs = model.observe(imagined)
        total = _added(model, total, obs, reward, t, horizon)
        # What an imagined step costs is unknown; feasible ones cost nothing.
        previous = Previous(action, jnp.nan_to_num(reward), jnp.zeros(count))
        keys = jax.random.split(jax.random.wrap_key_data(step_data), count)
        action, memory = jax.vmap(act)(keys, memory, obs, previous)
        return (imagined, jnp.clip(action + shift, -1.0, 1.0), memory, total), None

    begin = (many(model.begin(start)), first, jax.tree.map(many, carry), _nothing(count))
    # The action after the last step is not executed. One more of them is less than a second copy of
    # the model in the compiled program.
    shifts = jnp.concatenate([noise, jnp.zeros((1, *first.shape))])
    data = jax.random.key_data(jax.random.split(key, horizon))
    (*_, total), _ = jax.lax.scan(ahead, begin, (shifts, data, jnp.arange(horizon)))
    return _finite(total)


def judge_plans(model: PlanningModel, plans: Array, start: Array) -> Judged:
    """Action sequences, judged.

    Args:
      plans: `[H, C, A]`.
      start: `[O]` raw.
    """
    horizon, count = plans.shape[:2]

    def ahead(state: tuple, inputs: tuple) -> tuple:
        imagined, total = state
        action, t = inputs
        imagined, reward = model.step(imagined, action)
        return (imagined, _added(model, total, model.observe(imagined), reward, t, horizon)), None

    begun = model.begin(start)
    begin = (jnp.broadcast_to(begun, (count, *begun.shape)), _nothing(count))
    (_, total), _ = jax.lax.scan(ahead, begin, (plans, jnp.arange(horizon)))
    return _finite(total)


def best(judged: Judged) -> jax.Array:
    """The index `[]` of the sequence with the least depth, of those with the least excess, and of
    those with the most reward."""
    shallow = judged.depth <= jnp.min(judged.depth)
    excess = jnp.where(shallow, judged.excess, jnp.inf)
    least = shallow & (excess <= jnp.min(excess))
    return jnp.argmax(jnp.where(least, judged.reward, -jnp.inf))


def is_feasible(judged: Judged) -> jax.Array:
    """Whether sequences have neither depth nor excess."""
    return (judged.depth <= 0.0) & (judged.excess <= 0.0)


def is_better(one: Judged, other: Judged) -> jax.Array:
    """Whether sequences have less depth than others, or the same and less excess, or the same of
    both and more reward."""
    earns = one.reward > other.reward
    by_excess = (one.excess < other.excess) | ((one.excess == other.excess) & earns)
    return (one.depth < other.depth) | ((one.depth == other.depth) & by_excess)


def for_needed_rows(function: Callable[[Any], Any], rows: Any, needed: Array, block: int) -> Any:
    """Applies a function of one row to those rows that need it, in batches of fixed size.

    The rows that need it are moved to the front and processed block by block, so the cost grows
    with their number, and each block is one dense batch.

    Args:
      function: of a pytree to a pytree.
      rows: the same pytree with leaves `[n, ...]`.
      needed: `[n]` bool.
      block: rows per batch.

    Returns:
      The pytree of results with leaves `[n, ...]`, zeros where not needed.
    """
    size = needed.shape[0]
    block = min(block, size)
    order = jnp.argsort(~needed, stable=True)
    # Indices beyond the last row are dropped when results are written.
    order = jnp.concatenate([order, jnp.full(-size % block, size, order.dtype)])
    count = jnp.sum(needed)

    def take(index: Array) -> Any:
        return jax.tree.map(lambda x: x[index], rows)

    shapes = jax.eval_shape(function, take(0))

    def body(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        i, found = carry
        at = jax.lax.dynamic_slice(order, (i * block,), (block,))
        new = jax.vmap(function)(take(jnp.minimum(at, size - 1)))
        return i + 1, jax.tree.map(lambda f, x: f.at[at].set(x, mode="drop"), found, new)

    room = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)
    first = (jnp.int32(0), room)
    _, found = jax.lax.while_loop(lambda carry: carry[0] * block < count, body, first)

    def keep(x: Array) -> jax.Array:
        return jnp.where(needed.reshape(-1, *[1] * (x.ndim - 1)), x, 0)

    return jax.tree.map(keep, found)


def _is_judged(t: Array, horizon: int) -> Array:
    """Whether the state after step t, counted from 0, is judged."""
    return ((t + 1) % JUDGED_EVERY == 0) | (t + 1 == horizon)


def _nothing(count: int) -> Judged:
    zero = jnp.zeros(count)
    return Judged(zero, zero, zero)


def _added(
    model: PlanningModel, total: Judged, obs: Array, reward: Array, t: Array, horizon: int
) -> Judged:
    """The sums over a sequence after step t, which leads to obs `[C, O]`."""
    depth, judged = total.depth, _is_judged(t, horizon)
    if model.depth is not None:
        depth = depth + model.depth(obs)
        # Before the end, being feasible says no more than that the rest of a sequence exists.
        judged = t + 1 == horizon
    excess = jax.lax.cond(judged, model.excess, lambda obs: jnp.zeros(obs.shape[0]), obs)
    return Judged(depth, total.excess + excess, total.reward + reward)


def _finite(total: Judged) -> Judged:
    # A diverged model may return anything; a sequence for which it does is not taken.
    otherwise = Judged(jnp.inf, jnp.inf, LEAST_REWARD)
    return jax.tree.map(lambda x, value: jnp.where(jnp.isfinite(x), x, value), total, otherwise)
