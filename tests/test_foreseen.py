"""What the model foresees of a policy that is going to be deployed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC, drawn, toy_parts

from proco_jax.algorithms import proco
from proco_jax.deployment import policy as deploy
from proco_jax.deployment import violation_forecast as foreseen
from proco_jax.models.normalizer import Scale
from proco_jax.training import loop as train

SEEDS, STARTS, HORIZON = 2, 3, 5
SCALE = Scale(jnp.zeros(SPEC.size), jnp.ones(SPEC.size))


@pytest.fixture(scope="module")
def learned():
    parts = toy_parts()
    init = jax.vmap(lambda k: proco.init(parts.config.agent, parts.agent, k))
    agents = drawn(jax.eval_shape(init, train.seed_keys(0, SEEDS)))
    like = jax.eval_shape(lambda: deploy.empty_model(parts.config.dynamics, SPEC, ACTIONS))
    model = drawn(like)
    # Networks drawn at random lead anywhere, small ones not far.
    small = jax.tree.map(lambda x: 0.1 * x, model.params)
    model = model._replace(params=small, elites=jnp.arange(2, dtype=jnp.int32))
    return parts, agents, model


def followed(learned, unsafe, limit: float, settle: int = 0) -> tuple[list[int], list[int]]:
    parts, agents, model = learned
    start = jax.random.uniform(jax.random.key(1), (SEEDS, STARTS, SPEC.size))

    @jax.jit
    def run(model, agents, start):
        key = jax.random.key(0)
        return foreseen.foresee(parts, SCALE, model, agents, unsafe, start, HORIZON, settle, key)

    found = run(model._replace(limit=jnp.float32(limit)), agents, start)
    return found.violating.tolist(), found.steps.tolist()


def test_what_never_violates_takes_all_its_steps(learned):
    nothing = jax.jit(lambda obs: jnp.zeros(obs.shape[:-1], bool))
    assert followed(learned, nothing, np.inf) == ([0] * SEEDS, [STARTS * HORIZON] * SEEDS)


def test_a_violation_ends_a_trajectory_and_counts_once(learned):
    everything = jax.jit(lambda obs: jnp.ones(obs.shape[:-1], bool))
    assert followed(learned, everything, np.inf) == ([STARTS] * SEEDS, [STARTS] * SEEDS)


def test_what_the_elites_disagree_on_does_not_count(learned):
    everything = jax.jit(lambda obs: jnp.ones(obs.shape[:-1], bool))
    assert followed(learned, everything, -1.0) == ([0] * SEEDS, [0] * SEEDS)


def test_the_first_steps_do_not_count(learned):
    nothing = jax.jit(lambda obs: jnp.zeros(obs.shape[:-1], bool))
    everything = jax.jit(lambda obs: jnp.ones(obs.shape[:-1], bool))
    assert followed(learned, nothing, np.inf, 2) == ([0] * SEEDS, [STARTS * (HORIZON - 2)] * SEEDS)
    # Whoever violated before has nothing left to count.
    assert followed(learned, everything, np.inf, 2) == ([0] * SEEDS, [0] * SEEDS)


def row(bound: float, share: float | None) -> dict:
    return {"feasible_up_to": bound, "escape_above": bound, "with_one_more": share}


def test_the_boldest_bounds_within_the_risk_are_chosen():
    rows = [row(4, 0.2), row(2, 0.01), row(0, 0.0), row(6, 0.5), row(8, 0.1)]
    chosen = [foreseen.choose(rows, risk)["feasible_up_to"] for risk in (0.005, 0.1, 0.2, 0.6)]
    # Beyond a bound that is not within it, none is looked at.
    assert chosen == [0, 2, 4, 8]


def test_without_a_risk_the_bounds_of_the_config_are_kept():
    assert foreseen.choose([row(6, 0.9), row(2, 0.0)], 0.0)["feasible_up_to"] == 6


@pytest.mark.parametrize("share", [0.3, None])
def test_where_no_bounds_are_within_the_risk_the_most_careful_are_taken(share):
    chosen = foreseen.choose([row(4, 0.4), row(2, share)], 0.2)
    assert chosen["feasible_up_to"] == 2 and not foreseen.within(chosen, 0.2)


def test_the_share_of_episodes_is_that_of_independent_steps():
    assert foreseen.episode_share(0, 10, 1000) == 0.0
    # One in a thousand steps: e^-1 of the episodes of a thousand are spared.
    assert foreseen.episode_share(2, 2000, 1000) == pytest.approx(1 - np.exp(-1))
    assert foreseen.episode_share(0, 0, 1000) is None


def test_the_table_begins_with_the_bounds_of_the_run_and_asks_none_twice(learned):
    parts, agents, model = learned
    agent = dataclasses.replace(parts.config.agent, feasible_up_to=4.0, escape_above=4.0)
    parts = parts._replace(config=dataclasses.replace(parts.config, agent=agent))
    obs = np.random.default_rng(0).uniform(size=(7, SPEC.size)).astype(np.float32)
    rows = foreseen.table(
        parts, SCALE, model, agents, lambda o: o[..., 0] > 1e9, obs, 2, episode_steps=5
    )
    bounds = [(row["feasible_up_to"], row["escape_above"]) for row in rows]
    # Nothing violates, so the boldest are within any risk.
    assert [row["feasible_up_to"] for row in rows if row["deployed"]] == [6.0]
    assert all(row["with_one_more"] > row["violating_episodes"] == 0.0 for row in rows)
    assert bounds[0] == (4.0, 4.0) and set(bounds) == set(foreseen.BOUNDS)
    assert len(bounds) == len(set(bounds))
    assert all(row["violating"] == 0 and row["trajectories"] == 2 * SEEDS for row in rows)
