"""Shields guard the policies of any algorithm, each with its own critics."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, FLAT_TASK, SPEC, same_leaves, tiny_config
from deployment_toys import (
    ALGORITHMS,
    POLICIES,
    SHIELDS,
    action_keys,
    deployed_program,
    guard_of,
    toy_deployed,
    toy_obs,
    toy_previous,
)
from several_devices import run_on_devices
from test_policy import play_with_a_memory

from proco_jax.algorithms import feasibility
from proco_jax.algorithms.base import Previous
from proco_jax.common import sharding
from proco_jax.config.schema import ANY_REWARD
from proco_jax.deployment.acting import AHEAD, Deployed, make_actor
from proco_jax.deployment.planner import JUDGED_EVERY, make_plans, persistent_noise
from proco_jax.deployment.shield import UNKNOWN_DEPTH, Judge, filter_actions, make_shield
from proco_jax.knowledge.labelers import rule_labeler
from proco_jax.models import cost, dynamics, object_map
from proco_jax.observation import Field, ObservationSpec
from proco_jax.rules.rule import parse_rule
from proco_jax.training.loop import Program

STATES = 5
# Below and above all values of these critics, and not so large that sums of excesses round.
ALWAYS, NEVER = -50.0, 1e9


def fixed_program() -> Program:
    """What is known to be unsafe counts with less than V_h of some of these states."""
    config = tiny_config()
    feasible = dataclasses.replace(config.feasibility, unsafe=8.0)
    return deployed_program("proco", dataclasses.replace(config, feasibility=feasible))


@pytest.fixture(scope="module")
def program() -> Program:
    return fixed_program()


@pytest.fixture(scope="module")
def deployed(program: Program) -> Deployed:
    return toy_deployed(program)


@pytest.fixture(scope="module")
def actors(program: Program) -> dict[str, Any]:
    """Compiled: (deployed, active) to actions `[S, n, A]` in the same states with the same keys."""
    return {name: compiled(program, name) for name in SHIELDS}


def compiled(program: Program, shield: str) -> Any:
    actor = make_actor(program, shield)

    @jax.jit
    def run(deployed: Deployed, active: jax.Array) -> jax.Array:
        carry = actor.initial_carry(POLICIES, STATES)
        keys = action_keys(STATES)
        return actor.act(deployed, carry, toy_obs(STATES), toy_previous(STATES), keys, active)[0]

    everywhere = jnp.ones((POLICIES, STATES), bool)
    return lambda deployed, active=everywhere: np.asarray(run(deployed, active))


BOUNDED = ObservationSpec((Field("hazards_speed", 1, "flat", "m/s", "A speed."),))
NEAR = ("nearest(hazards) <= 1.0 m", "nearest(hazards) <= 2.0 m", "nearest(hazards) <= 0.5 m")


def at_distances(*distances: float) -> jax.Array:
    """Observations in which the nearest hazard has these distances in meters, of a reach of 3."""
    obs = np.zeros((len(distances), SPEC.size), np.float32)
    obs[:, SPEC.slices["hazards"].start] = 1.0 - np.array(distances) / 3.0
    return jnp.asarray(obs)


@pytest.mark.parametrize(
    ("count", "boundary"), [(1, 1.0), (2, 2.0), (3, 1.0)], ids=["one", "either", "two of three"]
)
def test_the_depth_is_that_in_the_set_that_half_of_the_rules_call_unsafe(count, boundary):
    distances = (0.1, 0.9, 1.05, 1.3, 2.04, 2.9)
    rules = tuple(parse_rule(text, SPEC) for text in NEAR[:count])
    obs = at_distances(*distances)
    found = Judge(rules, 0.1).depth(obs)
    expected = np.maximum(boundary + 0.1 - np.array(distances), 0.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # It is the vote by which states are labeled.
    unsafe = rule_labeler(rules, 0.1)(np.asarray(obs)).unsafe >= 0.5
    np.testing.assert_array_equal(np.asarray(found) > 0.0, unsafe)


def test_the_boundary_belongs_to_the_unsafe_set():
    rules = (parse_rule("hazards_speed >= 10 m/s", BOUNDED),)
    obs = jnp.array([[10.0], [9.9]])
    found = np.asarray(Judge(rules, 0.0).depth(obs))
    np.testing.assert_array_equal(
        found > 0.0, rule_labeler(rules, 0.0)(np.asarray(obs)).unsafe >= 0.5
    )
    np.testing.assert_array_equal(found > 0.0, [True, False])


def test_rules_that_cannot_tell_vote_unsafe():
    rules = tuple(parse_rule(text, SPEC) for text in NEAR)
    obs = at_distances(2.9, 2.9).at[0].set(jnp.nan)
    expected = np.array([UNKNOWN_DEPTH, 0.0], np.float32)
    np.testing.assert_array_equal(Judge(rules, 0.1).depth(obs), expected)


def test_judges_with_the_same_rules_are_the_same_constant_of_a_program():
    one, other = (Judge(tuple(parse_rule(t, SPEC) for t in NEAR), 0.1) for _ in range(2))
    traces = []

    @jax.jit
    def depth(judge: Judge, obs: jax.Array) -> jax.Array:
        traces.append(1)
        return judge.depth(obs)

    for judge in (one, other, dataclasses.replace(one, widening=0.2)):
        depth(judge, at_distances(0.7))
    assert len(traces) == 2


def with_thresholds(deployed: Deployed, qh: Any, planner: Any) -> Deployed:
    guard = guard_of(deployed)._replace(
        qh_threshold=jnp.float32(qh), planner_threshold=jnp.float32(planner)
    )
    return deployed._replace(shield=guard)


class Proposals(NamedTuple):
    """Actions `[S, n, P, A]` that the policies propose to the filter, and their Q_h `[S, n, P]`."""

    actions: np.ndarray
    qh: np.ndarray

    @property
    def least(self) -> np.ndarray:
        """The least Q_h `[S, n]`."""
        return self.qh.min(axis=-1)


@pytest.fixture(scope="module")
def proposals(program: Program, deployed: Deployed) -> Proposals:
    """What the policies propose in the states of `actors`, state by state."""
    algorithm, count = program.algorithm, program.config.shield.samples
    sample_actions = algorithm.sample_actions
    assert sample_actions is not None

    @jax.jit
    def one(policy: Any, obs: jax.Array, key: jax.Array) -> Any:
        state, hyper, critics = policy
        previous = Previous(jnp.zeros(ACTIONS), jnp.zeros(()), jnp.zeros(()))
        normalized, carry = deployed.normalizer(obs), algorithm.initial_carry()
        actions, _ = sample_actions(key, hyper, state, carry, normalized, previous, count)
        many = jnp.broadcast_to(normalized, (count, SPEC.size))
        return actions, feasibility.qh(program.feasibility, critics, many, actions)

    obs, keys = toy_obs(STATES), action_keys(STATES)
    policies = [of_policy(deployed, s) for s in range(POLICIES)]
    rows = [[one(p, obs[s, n], keys[s, n]) for n in range(STATES)] for s, p in enumerate(policies)]
    return Proposals(*(np.array([[row[i] for row in own] for own in rows]) for i in (0, 1)))


@pytest.fixture(scope="module")
def begins(program: Program, deployed: Deployed) -> np.ndarray:
    """The policy's own action and samples `[S, n, 1 + V, A]`, as the planner asks for them."""
    algorithm, count = program.algorithm, program.config.shield.planner_variations
    sample_actions = algorithm.sample_actions
    assert sample_actions is not None

    @jax.jit
    def one(policy: Any, obs: jax.Array, key: jax.Array) -> jax.Array:
        state, hyper, _ = policy
        previous = Previous(jnp.zeros(ACTIONS), jnp.zeros(()), jnp.zeros(()))
        inputs = (hyper, state, algorithm.initial_carry(), deployed.normalizer(obs), previous)
        own_key, more_key = jax.random.split(key)
        own, _ = algorithm.act(own_key, *inputs)
        more, _ = sample_actions(more_key, *inputs, count)
        return jnp.concatenate([own[None], more])

    obs, keys = toy_obs(STATES), action_keys(STATES)
    policies = [of_policy(deployed, s) for s in range(POLICIES)]
    rows = [[one(p, obs[s, n], keys[s, n]) for n in range(STATES)] for s, p in enumerate(policies)]
    return np.array(rows)


def of_policy(deployed: Deployed, policy: int) -> Any:
    """State, hyperparameters and critics of one policy."""
    trees = (deployed.algorithm, deployed.hyper, guard_of(deployed).critics)
    return jax.tree.map(lambda x: x[policy], trees)


def test_the_filter_takes_the_first_feasible_or_the_least_infeasible(deployed, actors, proposals):
    qh = proposals.qh
    # So that in some states all, in some a few, and in some none of the actions are feasible.
    for threshold in np.quantile(qh, [0.2, 0.5, 0.8]):
        expected = np.zeros((POLICIES, STATES, ACTIONS), np.float32)
        for s, n in np.ndindex(POLICIES, STATES):
            feasible = np.flatnonzero(qh[s, n] <= threshold)
            index = feasible[0] if feasible.size else np.argmin(qh[s, n])
            expected[s, n] = proposals.actions[s, n, index]
        found = actors["filter"](with_thresholds(deployed, threshold, NEVER))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    any_feasible = (qh <= np.quantile(qh, 0.5)).any(axis=-1)
    assert any_feasible.any() and not any_feasible.all()


def test_the_filter_accepts_the_first_proposal_where_everything_is_feasible(
    deployed, actors, proposals
):
    found = actors["filter"](with_thresholds(deployed, NEVER, NEVER))
    np.testing.assert_allclose(found, proposals.actions[:, :, 0], atol=1e-6)


def test_the_filter_accepts_an_action_exactly_at_its_threshold(program, deployed, proposals):
    """The first action of each state, and no action if the threshold is a little lower."""
    critics = of_policy(deployed, 0)[2]
    obs = toy_obs(STATES)[0]

    @jax.jit
    def run(threshold: jax.Array, actions: jax.Array) -> Any:
        """The filter's choice, the least Q_h, and Q_h of all actions as the filter computes it.

        In the last bit Q_h depends on the place of an action among the others.
        """
        state = guard_of(deployed)._replace(critics=critics, qh_threshold=threshold)
        seen = state.dynamics.normalizer(obs)
        many = jnp.broadcast_to(seen[:, None], (*actions.shape[:2], seen.shape[-1]))
        qh = feasibility.qh(program.feasibility, critics, many, actions)
        return *filter_actions(program.feasibility, state, obs, actions), qh

    for row in range(STATES):
        # The action with the largest Q_h first, so that it is taken only if it is feasible.
        order = np.argsort(-proposals.qh[0, row])
        actions = jnp.asarray(proposals.actions[0][:, order])
        largest = run(jnp.float32(ALWAYS), actions)[2][row, 0]
        at = run(largest, actions)[0]
        below, least, _ = run(jnp.nextafter(largest, -jnp.inf), actions)
        np.testing.assert_array_equal(at[row], actions[row, 0])
        np.testing.assert_array_equal(below[row], actions[row, 1])
        np.testing.assert_allclose(least[row], proposals.least[0, row], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_without_a_shield_the_action_is_the_policys_own(name):
    program = deployed_program(name, task=FLAT_TASK)
    deployed = toy_deployed(program)
    algorithm = program.algorithm

    @jax.jit
    def policies(deployed: Deployed) -> jax.Array:
        def one(state: Any, hyper: Any, obs: jax.Array, previous: Previous, key: jax.Array) -> Any:
            carry, normalized = algorithm.initial_carry(), deployed.normalizer(obs)
            return algorithm.act(key, hyper, state, carry, normalized, previous)[0]

        rows = jax.vmap(jax.vmap(one, (None, None, 0, 0, 0)))
        inputs = (toy_obs(STATES), toy_previous(STATES), action_keys(STATES))
        return rows(deployed.algorithm, deployed.hyper, *inputs)

    expected = policies(deployed)
    run = compiled(program, "none")
    np.testing.assert_array_equal(run(deployed), expected)
    # Neither critics nor a model are needed, and no row is skipped.
    np.testing.assert_array_equal(run(deployed._replace(shield=None)), expected)
    np.testing.assert_array_equal(run(deployed, jnp.zeros((POLICIES, STATES), bool)), expected)


def test_the_planner_lets_the_policy_act_where_its_continuation_stays_below_the_threshold(
    deployed, actors, begins
):
    for qh in (ALWAYS, NEVER):
        found = actors["planner"](with_thresholds(deployed, qh, NEVER))
        np.testing.assert_allclose(found, begins[:, :, 0], atol=1e-6)


@pytest.fixture(scope="module")
def sequences(program: Program, deployed: Deployed, begins: np.ndarray) -> Any:
    """V_h `[S, n, Q, H]`, first actions `[S, n, Q, A]`, what is known, and rewards, of sequences.

    The policy's own continuation comes first, then the varied ones, then the random ones. Each is
    followed step by step, and what is not judged counts as feasible. What is known is
    `[S, n, Q, H]`: whether the cost network calls a judged state unsafe. Rewards are sums,
    `[S, n, Q]`.
    """
    config = program.config
    settings, persistence = config.shield, config.rollouts.persistence
    horizon, variations = settings.planner_horizon, settings.planner_variations
    plans = make_plans(horizon, settings.planner_candidates, ACTIONS, persistence)
    model, algorithm = guard_of(deployed).dynamics, program.algorithm
    known = guard_of(deployed).cost
    assert known is not None

    @jax.jit
    def step(critics: Any, obs: jax.Array, action: jax.Array) -> Any:
        found = dynamics.predict(program.dynamics, model, jnp.int32(0), obs, action)
        seen = object_map.observation(SPEC, found.next_state)
        usual = jnp.clip(found.reward, *model.targets.usual)
        vh = feasibility.vh(program.feasibility, critics, deployed.normalizer(seen))
        return found.next_state, vh, cost.unsafe(program.cost, known, seen), usual

    @jax.jit
    def act(policy: Any, obs: jax.Array, key: jax.Array) -> jax.Array:
        state, hyper, _ = policy
        previous = Previous(jnp.zeros(ACTIONS), jnp.zeros(()), jnp.zeros(()))
        carry, normalized = algorithm.initial_carry(), deployed.normalizer(obs)
        return algorithm.act(key, hyper, state, carry, normalized, previous)[0]

    def of_state(policy: Any, obs: jax.Array, key: jax.Array, proposed: np.ndarray) -> Any:
        own_key, varied_key = jax.random.split(jax.random.fold_in(key, AHEAD))
        noise_key, act_key = jax.random.split(varied_key)
        shape = (horizon, variations, ACTIONS)
        noise = settings.planner_noise * persistent_noise(noise_key, shape, persistence)
        first = jnp.concatenate([proposed[:1], jnp.clip(proposed[1:] + noise[0], -1, 1), plans[0]])
        trace = np.full((len(first), horizon), -np.inf)
        found_unsafe, earned = np.zeros(trace.shape, bool), np.zeros(len(first))
        for q, begin in enumerate(first):
            at, action = object_map.begin(SPEC, obs), begin
            for t in range(horizon):
                at, vh, known, reward = step(policy[2], at, action)
                earned[q] += reward
                if (t + 1) % JUDGED_EVERY == 0 or t == horizon - 1:
                    trace[q, t] = max(vh, config.feasibility.unsafe) if known else vh
                    found_unsafe[q, t] = known
                if t == horizon - 1:
                    continue
                if q > variations:
                    action = plans[t + 1, q - variations - 1]
                    continue
                of_sequence = jax.random.clone(act_key if q else own_key)
                step_key = jax.random.split(of_sequence, horizon)[t]
                own = jax.random.split(step_key, variations if q else 1)[q - 1]
                action = act(policy, object_map.observation(SPEC, at), own)
                if q:
                    action = jnp.clip(action + noise[t + 1, q - 1], -1.0, 1.0)
        return trace, np.asarray(first), found_unsafe, earned

    policies = [of_policy(deployed, s) for s in range(POLICIES)]
    obs, keys = toy_obs(STATES), action_keys(STATES)
    rows = [
        [of_state(p, obs[s, n], keys[s, n], begins[s, n]) for n in range(STATES)]
        for s, p in enumerate(policies)
    ]
    return tuple(np.array([[row[i] for row in own] for own in rows]) for i in range(4))


def test_the_planner_takes_the_most_reward_of_what_is_feasible_or_the_least_infeasible(
    program, deployed, actors, sequences
):
    """By each policy's own critics; sequences of all kinds are taken somewhere.

    What the cost network calls unsafe is infeasible, whatever the critics say, and the larger of
    what both say counts. The policy's own continuation is taken where it is feasible and earns as
    much as is asked for. Where it is infeasible, random sequences count only if no varied one is
    feasible.
    """
    vh, first, unsafe, reward = sequences
    judged = np.isfinite(vh)
    assert unsafe.any() and not unsafe[judged].all()
    floor = program.config.feasibility.unsafe
    assert (vh[unsafe] == floor).any() and (vh[unsafe] > floor).any()
    variations = program.config.shield.planner_variations
    # By why the policy's own action was taken or replaced, and by what.
    seen = set()
    for threshold in (ALWAYS, *np.quantile(vh[judged], np.linspace(0.02, 0.98, 9)), NEVER):
        for least in (ANY_REWARD, *np.quantile(reward[:, :, 0], [0.3, 0.7]), np.inf):
            asked = guard_of(deployed)._replace(least_reward=jnp.float32(least))
            found = actors["planner"](
                with_thresholds(deployed._replace(shield=asked), 0.0, threshold)
            )
            excess = np.maximum(vh - threshold, 0.0).sum(axis=-1)
            for s, n in np.ndindex(POLICIES, STATES):
                feasible = excess[s, n, 0] <= 0.0
                best = 0
                if not feasible or reward[s, n, 0] < least:
                    some = excess[s, n].copy()
                    if not feasible and (some[: variations + 1] <= 0.0).any():
                        some[variations + 1 :] = np.inf
                    equal = some == some.min()
                    best = int(np.argmax(np.where(equal, reward[s, n], -np.inf)))
                np.testing.assert_allclose(found[s, n], first[s, n, best], atol=1e-5)
                seen.add((bool(feasible), (best > 0) + (best > variations)))
    assert {(False, 1), (False, 2), (True, 0), (True, 1), (True, 2)} <= seen


def test_the_planner_leaves_rows_that_are_not_active_to_the_policy(deployed, actors, begins):
    active = np.arange(POLICIES * STATES).reshape(POLICIES, STATES) % 3 > 0
    alarmed = with_thresholds(deployed, 0.0, ALWAYS)
    planned = actors["planner"](alarmed)
    found = actors["planner"](alarmed, jnp.asarray(active))
    own = begins[:, :, 0]
    np.testing.assert_allclose(found, np.where(active[..., None], planned, own), atol=1e-6)
    assert np.any(planned != own) and np.all(np.abs(planned) <= 1.0)


@pytest.mark.parametrize(
    "block", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(64, marks=pytest.mark.slow)]
)
def test_the_block_of_the_planner_does_not_change_its_actions(
    block, program, deployed, actors, sequences
):
    shield = dataclasses.replace(program.config.shield, planner_block=block)
    config = dataclasses.replace(program.config, shield=shield)
    run = compiled(deployed_program("proco", config), "planner")
    vh = sequences[0]
    for threshold in (ALWAYS, np.median(vh[np.isfinite(vh)])):
        some = with_thresholds(deployed, 0.0, threshold)
        np.testing.assert_allclose(run(some), actors["planner"](some), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shield", ["none", "planner"])
def test_a_policy_acts_the_same_alone_and_beside_others(
    program, deployed, actors, sequences, shield
):
    worst, threshold = sequences[0][:, :, 0].max(axis=-1), 10.0
    deployed = with_thresholds(deployed, 0.0, threshold)
    # The policy's own continuation is feasible for some of the rows.
    assert (worst > threshold).any() and (worst <= threshold).any()
    together = actors[shield](deployed)
    actor = make_actor(program, shield)
    run = jax.jit(actor.act)
    for s, n in np.ndindex(POLICIES, STATES):

        def own(tree: Any, s: int = s) -> Any:
            return jax.tree.map(lambda x: x[s : s + 1], tree)

        guard = guard_of(deployed)._replace(critics=own(guard_of(deployed).critics))
        alone = Deployed(own(deployed.algorithm), own(deployed.hyper), deployed.normalizer, guard)
        at = (slice(s, s + 1), slice(n, n + 1))
        previous = jax.tree.map(lambda x, at=at: x[at], toy_previous(STATES))
        carry = actor.initial_carry(1, 1)
        keys, active = action_keys(STATES)[at], jnp.ones((1, 1), bool)
        found, _ = run(alone, carry, toy_obs(STATES)[at], previous, keys, active)
        np.testing.assert_allclose(found[0, 0], together[s, n], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_policies_spread_over_devices_act_as_on_one(tmp_path, deployed, actors):
    thresholds = (ALWAYS, 0.0, 10.0)
    expected = [actors["planner"](with_thresholds(deployed, 0.0, x)) for x in thresholds]
    np.savez(tmp_path / "expected.npz", *expected)
    code = f"import test_shield; test_shield.compare_spread({str(tmp_path)!r}, {thresholds})"
    assert "on 2 devices" in run_on_devices(2, code)


def compare_spread(folder: str, thresholds: tuple[float, ...]) -> None:
    """Run in a process of its own: each policy on a device of its own."""
    program = fixed_program()
    deployed = sharding.for_acting(toy_deployed(program), POLICIES)
    with np.load(Path(folder) / "expected.npz") as expected:
        actor = make_actor(program, "planner")
        act = jax.jit(actor.act)
        for threshold, wanted in zip(thresholds, expected.values(), strict=True):
            inputs = (toy_obs(STATES), toy_previous(STATES), action_keys(STATES))
            found, _ = act(
                with_thresholds(deployed, 0.0, threshold),
                actor.initial_carry(POLICIES, STATES),
                *inputs,
                jnp.ones((POLICIES, STATES), bool),
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
            # Each device has computed one policy.
            assert len(found.addressable_shards) == POLICIES and not found.is_fully_replicated
    # A memory comes back where it was, so that the second step needs no other program.
    player: Any = play_with_a_memory()
    assert player.act.func._cache_size() == 1
    print("on", len(found.sharding.device_set), "devices")


@pytest.mark.parametrize("shield", ["filter", "planner"])
def test_a_shield_without_critics_is_refused(program, deployed, shield):
    with pytest.raises(ValueError, match=f"{shield}.*feasibility critics"):
        compiled(program, shield)(deployed._replace(shield=None))


def test_an_unknown_shield_is_refused(program):
    for name in ("planer", "", "None", "Filter"):
        with pytest.raises(ValueError, match="none, filter or planner"):
            make_actor(program, name)


@pytest.mark.slow
@pytest.mark.parametrize("shield", ["filter", "planner"])
@pytest.mark.parametrize("name", ["bc", "deployment_toys:make_unsampled"])
def test_other_algorithms_act_under_every_shield_as_proco_does(name, shield):
    program = deployed_program(name, task=FLAT_TASK)
    deployed = toy_deployed(program)
    own = compiled(program, "none")(deployed)
    run = compiled(program, shield)
    calm, alarmed = (run(with_thresholds(deployed, ALWAYS, x)) for x in (NEVER, ALWAYS))
    for found in (calm, alarmed):
        assert found.shape == (POLICIES, STATES, ACTIONS) and np.all(np.abs(found) <= 1.0)
    # A policy that cannot be sampled proposes its own action; only the planner replaces it.
    if program.algorithm.sample_actions is None:
        np.testing.assert_allclose(calm, own, rtol=1e-5, atol=1e-6)
    else:
        assert np.any(calm != own)
    if shield == "planner":
        # Here and there the policy's own continuation is the least infeasible.
        assert np.mean(np.any(alarmed != calm, axis=-1)) > 0.5
    else:
        np.testing.assert_array_equal(alarmed, calm)


@pytest.fixture(scope="module")
def remembering() -> tuple[Program, Deployed]:
    program = deployed_program("deployment_toys:make_remembering", task=FLAT_TASK)
    return program, toy_deployed(program)


@pytest.mark.slow
@pytest.mark.parametrize("shield", SHIELDS)
def test_a_memory_sees_the_executed_action_under_every_shield(remembering, shield):
    program, deployed = remembering
    actor = make_actor(program, shield)
    run = jax.jit(actor.act)
    active = jnp.ones((POLICIES, STATES), bool)
    for planner, least in ((NEVER, ANY_REWARD), (ALWAYS, ANY_REWARD), (NEVER, np.inf)):
        guarded, own = with_thresholds(deployed, 0.0, planner), []
        guard = guard_of(guarded)._replace(cost=None, least_reward=jnp.float32(least))
        guarded = guarded._replace(shield=guard)
        carry, previous = actor.initial_carry(POLICIES, STATES), toy_previous(STATES)
        for t in range(4):
            obs, keys = toy_obs(STATES, seed=t), action_keys(STATES, seed=t)
            action, carry = run(guarded, carry, obs, previous, keys, active)
            np.testing.assert_array_equal(carry.steps, np.full((POLICIES, STATES), t + 1))
            same_leaves(carry.previous, previous)
            # The policy raises the first component by 0.01 per step; other sequences do not, and
            # here and there the policy's own continuation is the best.
            own.append(np.isclose(action[..., 0], 0.01 * (t + 1)).mean())
            reward = jnp.full((POLICIES, STATES), 0.1 * t, jnp.float32)
            previous = Previous(action, reward, jnp.float32(reward > 0.15))
        planned = shield == "planner" and (planner == ALWAYS or least == np.inf)
        assert np.mean(own) < 0.8 if planned else np.mean(own) == 1.0


def test_memories_of_rows_are_apart(remembering):
    """Other pasts of one row change that row's action alone."""
    program, deployed = remembering
    actor = make_actor(program, "filter")
    carry = actor.initial_carry(POLICIES, STATES)
    carry = carry._replace(steps=carry.steps.at[1, 2].set(7))
    previous = toy_previous(STATES)
    previous = previous._replace(reward=previous.reward.at[0, 1].set(1.0))
    run = jax.jit(actor.act)
    active = jnp.ones((POLICIES, STATES), bool)
    obs = toy_obs(STATES)
    deployed = with_thresholds(deployed, NEVER, NEVER)
    fresh = actor.initial_carry(POLICIES, STATES)
    first, _ = run(deployed, fresh, obs, toy_previous(STATES), action_keys(STATES), active)
    second, memory = run(deployed, carry, obs, previous, action_keys(STATES), active)
    changed = np.any(np.asarray(first != second), axis=-1)
    assert sorted(zip(*np.nonzero(changed), strict=True)) == [(0, 1), (1, 2)]
    assert memory.steps[1, 2] == 8 and memory.steps.sum() == 7 + POLICIES * STATES


def test_a_shield_asks_for_as_many_actions_as_the_config_says(program):
    def shield(name: str) -> Any:
        return make_shield(
            name, program.config, program.dynamics, program.cost, program.feasibility, ACTIONS
        )

    assert [(shield(name).own, shield(name).samples) for name in SHIELDS] == [
        (True, 0),
        (False, 5),
        (True, 3),
    ]
