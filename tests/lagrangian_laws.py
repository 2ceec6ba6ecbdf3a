"""Laws that hold of both algorithms with a Lagrangian cost constraint, BCQ-Lag and BEAR-Lag."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import same_leaves
from value_toys import (
    SIZE,
    bandit_learner,
    check_proposals,
    moved,
    moved_parts,
    random_rows,
    with_hyper,
    with_part,
)

from proco_jax.algorithms import lagrangian_critics
from proco_jax.algorithms.base import Algorithm


class Case(NamedTuple):
    """An algorithm under test.

    Attributes:
      ours: the algorithm.
      published: the same `as_published`.
      nets: its networks, with critics `q` and `qc`.
      samples: candidates from which it executes the best.
      update: compiled update of `ours`.
      update_published: compiled update of `published`.
    """

    ours: Algorithm
    published: Algorithm
    nets: Any
    samples: int
    update: Callable[..., Any]
    update_published: Callable[..., Any]

    def updated(self, state: Any, batch: Any, hyper: Any = None, published: bool = False) -> Any:
        """State and metrics after one update, with the same key each time."""
        update = self.update_published if published else self.update
        return update(jax.random.key(1), hyper or self.ours.hyper, state, batch)


def rewards_move_the_reward_critic_and_costs_the_cost_critic(case: Case, state: Any) -> None:
    batch = random_rows()
    # Below the limit, costs do not reach the policy.
    calm = with_hyper(case.ours, cost_limit=1e6).hyper
    usual, _ = case.updated(state, batch, calm)
    richer, _ = case.updated(state, batch._replace(reward=batch.reward + 1.0), calm)
    costly, _ = case.updated(state, batch._replace(cost=batch.cost + 1.0), calm)
    assert moved_parts(usual, richer) <= {"q", "policy"} and "q" in moved_parts(usual, richer)
    assert moved_parts(usual, costly) == {"qc"}
    assert moved_parts(state, usual) == {"q", "qc", "vae", "policy"}


def no_other_loss_moves_through_the_policy(case: Case, state: Any) -> None:
    batch, other = random_rows(), with_part(state, "policy")
    found = [case.updated(s, batch)[0] for s in (state, other)]
    assert moved_parts(*found) == {"policy"}


def imagined_rows_reach_the_cost_critic_and_the_policy_alone(case: Case, state: Any) -> None:
    batch = random_rows()
    usual, _ = case.updated(state, batch)
    changed = jnp.where(batch.imagined[:, None], -batch.action, batch.action)
    reward = jnp.where(batch.imagined, 99.0, batch.reward)
    found, _ = case.updated(state, batch._replace(action=changed, reward=reward))
    assert "qc" in moved_parts(usual, found) and moved_parts(usual, found) <= {"qc", "policy"}
    # Imagined rows are known by a mask, not by their position.
    alone = batch._replace(imagined=jnp.ones_like(batch.imagined))
    found, _ = case.updated(state, alone, with_hyper(case.ours, cost_limit=-1e3).hyper)
    assert moved_parts(state, found) == {"qc", "policy"}


def on_costs_of_zero_the_multiplier_does_not_matter(
    case: Case, state: Any, published: bool
) -> None:
    """Lambda stays 0, so that its gains do not matter."""
    name = case.ours.name
    batch = random_rows()
    batch = batch._replace(cost=jnp.zeros_like(batch.cost))
    # The critics begin near 0, below the limit.
    small = jax.tree.map(lambda x: 0.01 * x, (state.params["qc"], state.targets["qc"]))
    start = dataclasses.replace(
        state, params=state.params | {"qc": small[0]}, targets=state.targets | {"qc": small[1]}
    )
    plain = with_hyper(case.ours, proportional_gain=0, integral_gain=0, derivative_gain=0).hyper
    ours, unconstrained = start, start
    for _ in range(5):
        ours, metrics = case.updated(ours, batch, published=published)
        unconstrained, _ = case.updated(unconstrained, batch, plain, published)
        assert float(metrics[f"{name}/excess_cost"]) < 0.0
        if not published:
            assert float(metrics[f"{name}/multiplier"]) == 0.0
            same_leaves(ours, unconstrained)
    # Published, a rise below the limit counts a little.
    same_leaves(ours.params["q"], unconstrained.params["q"], rtol=1e-3, atol=1e-5)


def published_cost_backups_pass_terminations_and_ours_do_not(case: Case, state: Any) -> None:
    batch = random_rows()._replace(discount=jnp.zeros(10))
    far = batch._replace(next_obs=batch.next_obs + 3.0)
    for published in (False, True):
        found = [case.updated(state, rows, published=published)[0] for rows in (batch, far)]
        assert not moved(found[0].params["q"], found[1].params["q"])
        assert moved(found[0].params["qc"], found[1].params["qc"]) == published


def it_proposes_different_actions_and_executes_the_best_of_them(case: Case, state: Any) -> None:
    check_proposals(case.ours, state)
    check_proposals(case.published, state)
    obs, ours = jnp.full(SIZE, 0.3), case.ours
    previous = (ours.initial_carry(), obs, None)
    for multiplier in (0.0, 5.0):
        pid = state.pid._replace(multiplier=jnp.float32(multiplier))
        own = dataclasses.replace(state, pid=pid)
        key = jax.random.key(3)
        action, _ = ours.act(key, ours.hyper, own, *previous)  # pyright: ignore
        samples, _ = ours.sample_actions(  # pyright: ignore
            jax.random.clone(key), ours.hyper, own, *previous, case.samples
        )
        nets = case.nets
        q, qc = lagrangian_critics.values(nets.q, nets.qc, own.params, obs, samples, False)
        np.testing.assert_array_equal(action, samples[np.argmax(q - multiplier * qc)])


def it_finds_the_best_action_with_and_without_constraint(algorithm: Algorithm) -> None:
    """On the bandit of `value_toys`."""
    # The multiplier is 2.4 at the constrained optimum.
    quick = with_hyper(algorithm, proportional_gain=1.0, integral_gain=0.05)
    learn = bandit_learner(quick, 2000)
    for costs, best in ((False, 0.8), (True, 0.2)):
        state, actions = learn(costs)
        assert actions.mean() == pytest.approx(best, abs=0.1)
        np.testing.assert_allclose(actions, best, atol=0.2)
        assert (float(state.pid.multiplier) > 0.0) == costs
