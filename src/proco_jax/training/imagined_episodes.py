"""Imagined episodes: what an improved policy does in the learned world, from start to end.

Regression cannot leave what the logs do. A policy that was improved in imagination can, and what it
does in the world is data, from which any offline algorithm can learn as it learns from logs: with
actions that avoid what is unsafe, in the states to which such a policy leads.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.augmentation.base import Context, Policy, World, advance
from proco_jax.training import loop
from proco_jax.training.loop import Program, TrainState
from proco_jax.types import Array


class Walks(NamedTuple):
    """W imagined episodes of T steps.

    Attributes:
      obs: `[W, T + 1, O]` raw.
      action: `[W, T, A]`.
      reward: `[W, T]`, with bonuses.
      cost: `[W, T]`, 1 where the next state counts as unsafe.
      lost: `[W]` bool, whether the model left the support of the logs, or the episode ended early.
    """

    obs: Array
    action: Array
    reward: Array
    cost: Array
    lost: Array


def make_walks(
    program: Program, count: int, steps: int
) -> Callable[[Context, loop.Hyper, TrainState, Array], Walks]:
    """Compiled: context, hyperparameters, a member's training and a key to its policy's episodes.

    Args:
      program: whose augmentation has a world.
      count: W.
      steps: T.
    """
    settings, augmentation = program.config.proco.imagination, program.augmentation
    assert augmentation.world is not None, "this augmentation has no world to act in"
    make_world = augmentation.world

    @jax.jit
    def run(context: Context, hyper: loop.Hyper, train: TrainState, key: Array) -> Walks:
        world = make_world(context, settings.elites)
        algorithm = (hyper.algorithm, train.algorithm)
        policy = loop.make_policy(program, context.normalizer, *algorithm)
        return walk(world, policy, count, steps, key)

    return run


def walk(world: World, policy: Policy, count: int, steps: int, key: Array) -> Walks:
    """`steps` steps of a policy in each of `count` worlds that begin at logged states."""
    start_key, step_key = jax.random.split(key)
    start = world.starts(start_key, count, jnp.float32(0.0))

    def step(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], tuple]:
        imagined, lost = carry
        action_key, *keys = jax.random.split(key, 3)
        obs = world.observe(imagined)
        action = policy(action_key, obs)
        found, _, reward, following = advance(world, (keys[0], keys[1]), imagined, action)
        made = (obs, action, reward, found.unsafe.astype(jnp.float32))
        return (following, lost | found.lost), made

    begun = (start, jnp.zeros(count, bool))
    (last, lost), made = jax.lax.scan(step, begun, jax.random.split(step_key, steps))
    obs, action, reward, cost = (jnp.moveaxis(x, 0, 1) for x in made)
    obs = jnp.concatenate([obs, world.observe(last)[:, None]], axis=1)
    return Walks(obs, action, reward, cost, lost)
