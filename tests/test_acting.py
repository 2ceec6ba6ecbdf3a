"""A deployed policy does what its agent proposes, and looks for a way out where that is unsafe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC, drawn, toy_parts

from proco_jax.algorithms import proco
from proco_jax.config.schema import AgentConfig
from proco_jax.deployment import policy as deploy
from proco_jax.deployment import shield as acting
from proco_jax.models import dynamics
from proco_jax.models.normalizer import Scale
from proco_jax.training import loop as train

SEEDS, STATES = 2, 3
KEYS = jax.random.split(jax.random.key(0), (SEEDS, STATES))
LINE = AgentConfig(escapes=64, escape_horizon=10)


def parts_with(**changes) -> train.Parts:
    parts = toy_parts()
    agent = dataclasses.replace(parts.config.agent, **changes)
    return parts._replace(config=dataclasses.replace(parts.config, agent=agent))


@pytest.fixture(scope="module")
def agents() -> proco.AgentState:
    parts = toy_parts()
    init = jax.vmap(lambda k: proco.init(parts.config.agent, parts.agent, k))
    return drawn(jax.eval_shape(init, train.seed_keys(0, SEEDS)))


@pytest.fixture(scope="module")
def model() -> dynamics.Model:
    parts = toy_parts()
    like = jax.eval_shape(lambda: deploy.empty_model(parts.config.dynamics, SPEC, ACTIONS))
    return drawn(like)._replace(elites=jnp.arange(2, dtype=jnp.int32))


def acted(
    parts: train.Parts,
    agents: proco.AgentState,
    model: dynamics.Model | None,
    counts: np.ndarray | bool = True,
) -> np.ndarray:
    obs = jax.random.uniform(jax.random.key(1), (SEEDS, STATES, SPEC.size))
    scale = Scale(jnp.zeros(SPEC.size), jnp.ones(SPEC.size))
    run = jax.jit(lambda m, a, k: acting.act(parts, scale, m, a, obs, k, counts))
    return np.asarray(run(model, agents, jax.random.clone(KEYS)))


def test_only_what_is_unsafe_is_escaped_from(agents, model):
    never, always = (parts_with(escapes=4, escape_above=x) for x in (1e9, -1e9))
    proposed = acted(never, agents, None)
    np.testing.assert_array_equal(acted(never, agents, model), proposed)
    np.testing.assert_array_equal(
        acted(parts_with(escapes=0, escape_above=-1e9), agents, model), proposed
    )
    # Without a model there is nothing to imagine with.
    np.testing.assert_array_equal(acted(always, agents, None), proposed)
    escaped = acted(always, agents, model)
    assert np.all(np.any(escaped != proposed, axis=-1)) and np.all(np.abs(escaped) <= 1.0)
    # Nor where an action does not count.
    some = np.arange(SEEDS * STATES).reshape(SEEDS, STATES) % 2 == 0
    np.testing.assert_array_equal(
        acted(always, agents, model, some), np.where(some[..., None], escaped, proposed)
    )


def test_a_model_of_each_seed_is_that_seeds_own(agents, model):
    parts = parts_with(escapes=4, escape_above=-1e9)
    own = dataclasses.replace(
        parts.config, dynamics=dataclasses.replace(parts.config.dynamics, per_seed=True)
    )
    other = jax.tree.map(lambda x: x if x.dtype == jnp.int32 else -x, model)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), model, other)
    found = acted(parts._replace(config=own), agents, both)
    np.testing.assert_allclose(found[0], acted(parts, agents, model)[0], atol=1e-6)
    np.testing.assert_allclose(found[1], acted(parts, agents, other)[1], atol=1e-6)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_way_out_leads_away_from_what_is_unsafe(side):
    """On a line, 0.5 inside of what begins at 0, a tenth of the action a step."""

    def step(obs, action):
        return obs + 0.1 * action

    start = jnp.array([0.5 * side])
    chosen = acting.escape(LINE, 12.0, step, lambda o: side * o[:, 0], start, 1)
    assert float(chosen[0]) * side < -0.4


def test_sequences_that_the_model_cannot_follow_are_no_way_out():
    """Whoever goes down is lost to sight, and nothing is safer than that."""

    def vh(obs):
        return jnp.where(obs[:, 0] < 0.0, jnp.nan, 1.0)

    chosen = acting.escape(LINE, 100.0, lambda o, a: o + a, vh, jnp.zeros(1), 1)
    assert float(chosen[0]) >= 0.0
