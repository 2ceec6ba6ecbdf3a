"""Deployed toy policies that were never trained, and an algorithm with a memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from core_toys import (
    ACTIONS,
    SPEC,
    TASK,
    drawn,
    toy_cost_model,
    toy_dataset,
    toy_model,
    toy_normalizer,
    toy_program,
)

from proco_jax.algorithms import feasibility
from proco_jax.algorithms.base import Algorithm, Previous
from proco_jax.config.schema import ANY_REWARD, Config
from proco_jax.deployment.acting import Deployed, initial_previous
from proco_jax.deployment.shield import ShieldState
from proco_jax.training.loop import Program, make_hyper
from proco_jax.types import Array, TaskSpec

POLICIES = 2
# The algorithms of these tests: two of the package, and three by module and function.
ALGORITHMS = (
    "proco",
    "bc",
    "toy_algorithm:make",
    "deployment_toys:make_unsampled",
    "deployment_toys:make_remembering",
)
SHIELDS = ("none", "filter", "planner")


class Memory(NamedTuple):
    """Memory of `make_remembering`: steps of the episode, and what it was told of the last one."""

    steps: Array
    previous: Previous


def make_remembering(config: Config, task: TaskSpec) -> Algorithm:
    """An algorithm whose actions depend on the number of steps and on the last step.

    Its state is a vector `[A]`. All proposals have the same first component, 0.01 per step of the
    episode.
    """

    def sample_actions(
        key: Array, hyper: Any, state: Array, carry: Memory, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Memory]:
        carry = Memory(carry.steps + 1, previous)
        past = jnp.tanh(state[0] * previous.action[1] + previous.reward + 2.0 * previous.cost)
        noise = jax.random.uniform(key, (n, task.action_size), minval=-0.5, maxval=0.5)
        return noise.at[:, 1].add(0.5 * past).at[:, 0].set(0.01 * carry.steps), carry

    def act(
        key: Array, hyper: Any, state: Array, carry: Memory, obs: Array, previous: Previous
    ) -> tuple[Array, Memory]:
        actions, carry = sample_actions(key, hyper, state, carry, obs, previous, 1)
        return actions[0], carry

    nothing = Previous(jnp.zeros(task.action_size), jnp.zeros(()), jnp.zeros(()))
    return Algorithm(
        name="remembering",
        batch="transition",
        hyper=(),
        init=lambda key, hyper: jax.random.normal(key, (task.action_size,)),
        update=lambda key, hyper, state, batch: (state, {}),
        initial_carry=lambda: Memory(jnp.int32(0), nothing),
        act=act,
        sample_actions=sample_actions,
    )


def make_unsampled(config: Config, task: TaskSpec) -> Algorithm:
    """A deterministic linear policy, which a shield cannot sample."""
    return Algorithm(
        name="unsampled",
        batch="transition",
        hyper=(),
        init=lambda key, hyper: jax.random.normal(key, (task.observation.size, task.action_size)),
        update=lambda key, hyper, state, batch: (state, {}),
        initial_carry=lambda: (),
        act=lambda key, hyper, state, carry, obs, previous: (jnp.tanh(obs @ state), carry),
    )


def toy_deployed(
    program: Program, thresholds: tuple[float, float] = (0.0, 0.0), seed: int = 0
) -> Deployed:
    """Policies with random parameters, of the structure of trained ones."""
    data, spec = toy_dataset(4), program.task.observation
    normalizer = toy_normalizer(data, spec)
    keys = jax.random.split(jax.random.key(seed), POLICIES)
    hyper = make_hyper(program, POLICIES).algorithm
    state = _drawn_floats(jax.eval_shape(jax.vmap(program.algorithm.init), keys, hyper), seed)
    critics = jax.eval_shape(
        lambda keys: jax.vmap(lambda k: feasibility.init(program.feasibility, ACTIONS, k))(keys),
        keys,
    )
    model = toy_model(program.config, data, normalizer, spec)
    # About half of the states to which the planner's sequences lead count as unsafe.
    known = toy_cost_model(program.config, data, normalizer, spec)
    known = known._replace(threshold=jnp.float32(15.8))
    qh, planner = map(jnp.float32, thresholds)
    guard = ShieldState(
        drawn(critics.params, seed + 1), model, qh, planner, jnp.float32(ANY_REWARD), known
    )
    return Deployed(state, hyper, normalizer, guard)


def guard_of(deployed: Deployed) -> ShieldState:
    """The state of the shield of policies that have one."""
    assert deployed.shield is not None
    return deployed.shield


def toy_obs(states: int, seed: int = 1) -> jax.Array:
    """Raw observations `[POLICIES, n, O]`."""
    shape = (POLICIES, states, SPEC.size)
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def toy_previous(states: int) -> Previous:
    """The last step at the start of `[POLICIES, n]` episodes."""
    return initial_previous(POLICIES, states, ACTIONS)


def action_keys(states: int, seed: int = 0) -> jax.Array:
    """Keys `[POLICIES, n]`, fresh ones in each call."""
    return jax.random.split(jax.random.key(seed), (POLICIES, states))


def deployed_program(
    algorithm: str = "proco", config: Config | None = None, task: TaskSpec = TASK
) -> Program:
    """The program of an algorithm with the augmentation that gives a shield its critics."""
    return toy_program(algorithm, "proco", config, task)


def _drawn_floats(like: Any, seed: int) -> Any:
    """Normal numbers for floats, zeros for the rest, in the shapes of `like`."""
    rng = np.random.default_rng(seed)

    def one(x: Any) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.map(one, like)
