"""The planner of the shield: short-horizon searches in the learned model.

A step moves a robot by about a centimeter, so single actions hardly differ in Q_h; sequences that
last do differ. The planner compares sequences by their *excess*, the sum of max(V_h - threshold, 0)
over the states to which they lead in the model, and those without excess by the reward that the
model predicts for them:

1. *The policy's own continuation*: its action, and what it would do next.
2. *Varied continuations*: the same with noise that lasts. A policy often knows the way around a
   hazard, and is only too close or too fast.
3. *Random sequences* of actions, whatever the policy would do.

The shield (`shield.py`) takes the first of these kinds that has a sequence without excess, and of
these sequences the one with the most predicted reward. Where none has one, it takes the sequence
with the least excess. Without the reward more robots stop before what they must avoid: standing
still is as feasible as the way around.
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
CPU_BLOCK, ACCELERATOR_BLOCK = 4, 256
# Finite, so that a sequence with the least excess comes before all others whatever its reward.
LEAST_REWARD = -float(jnp.finfo(jnp.float32).max)
# Every so many steps of a sequence, and at its end, its state is judged. What a robot moves in so
# many steps is little beside the sets that it must avoid, and an infeasible state leads to others.
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
      begin: obs `[..., O]` to the state `[..., S]` that an imagined trajectory begins with.
      observe: states to obs.
    """

    step: Callable[[Array, Array], tuple[Array, Array]]
    excess: Callable[[Array], Array]
    begin: Callable[[Array], Array] = unchanged
    observe: Callable[[Array], Array] = unchanged


class Judged(NamedTuple):
    """What the model says of C sequences.

    Attributes:
      excess: `[C]`, infinite where the model diverges.
      reward: `[C]` sum of the predicted rewards, without rare bonuses; LEAST_REWARD where the model
        diverges.
    """

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
        imagined, action, memory, total, earned = state
        shift, step_data, t = inputs
        imagined, reward = model.step(imagined, action)
        obs = model.observe(imagined)
        total = total + _excess(model, obs, _is_judged(t, horizon))
        earned = earned + reward
        # What an imagined step costs is unknown; feasible ones cost nothing.
        previous = Previous(action, jnp.nan_to_num(reward), jnp.zeros(count))
        keys = jax.random.split(jax.random.wrap_key_data(step_data), count)
        action, memory = jax.vmap(act)(keys, memory, obs, previous)
        return (imagined, jnp.clip(action + shift, -1.0, 1.0), memory, total, earned), None

    zero = jnp.zeros(count)
    begin = (many(model.begin(start)), first, jax.tree.map(many, carry), zero, zero)
    # The action after the last step is not executed. One more of them is less than a second copy of
    # the model in the compiled program.
    shifts = jnp.concatenate([noise, jnp.zeros((1, *first.shape))])
    data = jax.random.key_data(jax.random.split(key, horizon))
    (*_, total, earned), _ = jax.lax.scan(ahead, begin, (shifts, data, jnp.arange(horizon)))
    return Judged(_finite(total, jnp.inf), _finite(earned, LEAST_REWARD))


def judge_plans(model: PlanningModel, plans: Array, start: Array) -> Judged:
    """Action sequences, judged.

    Args:
      plans: `[H, C, A]`.
      start: `[O]` raw.
    """
    horizon, count = plans.shape[:2]

    def ahead(state: tuple, inputs: tuple) -> tuple:
        imagined, total, earned = state
        action, t = inputs
        imagined, reward = model.step(imagined, action)
        total = total + _excess(model, model.observe(imagined), _is_judged(t, horizon))
        return (imagined, total, earned + reward), None

    begun, zero = model.begin(start), jnp.zeros(count)
    begin = (jnp.broadcast_to(begun, (count, *begun.shape)), zero, zero)
    (_, total, earned), _ = jax.lax.scan(ahead, begin, (plans, jnp.arange(horizon)))
    return Judged(_finite(total, jnp.inf), _finite(earned, LEAST_REWARD))


def best(judged: Judged) -> jax.Array:
    """The index `[]` of the sequence with the least excess and, of those, with the most reward."""
    least = judged.excess <= jnp.min(judged.excess)
    return jnp.argmax(jnp.where(least, judged.reward, -jnp.inf))


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


def _excess(model: PlanningModel, obs: Array, judged: Array) -> jax.Array:
    """The excess `[C]` of one step, 0 where it is not judged."""
    return jax.lax.cond(judged, model.excess, lambda obs: jnp.zeros(obs.shape[0]), obs)


def _finite(total: Array, otherwise: float) -> jax.Array:
    # A diverged model may return anything; a sequence for which it does is not taken.
    return jnp.where(jnp.isfinite(total), total, otherwise)
