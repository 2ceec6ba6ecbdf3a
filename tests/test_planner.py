"""The planner searches short action sequences in the model, for the rows that need it alone."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.algorithms.base import Previous
from proco_jax.deployment.planner import (
    JUDGED_EVERY,
    LEAST_REWARD,
    Judged,
    PlanningModel,
    best,
    for_needed_rows,
    is_better,
    is_feasible,
    judge_plans,
    judge_policy,
    make_plans,
    persistent_noise,
)

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
MASKS = np.array(list(itertools.product((False, True), repeat=len(ROWS))))
BLOCKS = range(1, 8)


def two_numbers(row: jax.Array) -> jax.Array:
    """A function of one row, never 0 on these rows."""
    return jnp.stack([row.sum(), 1.0 + jnp.square(row).sum()])


def expected(mask: np.ndarray, rows: np.ndarray = ROWS) -> np.ndarray:
    """`two_numbers` row by row where needed, zeros elsewhere."""
    each = np.stack([rows.sum(axis=-1), 1.0 + np.square(rows).sum(axis=-1)], axis=-1)
    return np.where(mask[..., None], each, 0.0)


@pytest.mark.parametrize("block", BLOCKS)
def test_needed_rows_get_the_function_and_others_zeros(block):
    run = jax.jit(lambda needed: for_needed_rows(two_numbers, jnp.asarray(ROWS), needed, block))
    for mask in MASKS:
        found = np.asarray(run(mask))
        np.testing.assert_allclose(found, expected(mask), rtol=1e-6, atol=1e-6)
        assert not found[~mask].any()


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_policies_that_need_different_numbers_of_rows_do_not_disturb_each_other(block):
    """All masks at once, as policies of one program: each with rows of its own."""
    rows = np.random.default_rng(1).normal(size=(len(MASKS), *ROWS.shape)).astype(np.float32)
    run = jax.jit(jax.vmap(lambda r, needed: for_needed_rows(two_numbers, r, needed, block)))
    np.testing.assert_allclose(run(rows, MASKS), expected(MASKS, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_do_not_need_it_may_hold_anything(value):
    rows = ROWS.copy()
    rows[1::2] = value
    mask = np.arange(len(rows)) % 2 == 0
    found = for_needed_rows(two_numbers, jnp.asarray(rows), jnp.asarray(mask), 4)
    np.testing.assert_allclose(found, expected(mask), rtol=1e-6)


@pytest.mark.parametrize(
    ("needed", "block", "blocks"), [(0, 2, 0), (1, 2, 1), (2, 2, 1), (5, 2, 3)]
)
def test_the_work_grows_with_the_rows_that_need_it(needed, block, blocks):
    calls = []

    def counted(row: jax.Array) -> jax.Array:
        jax.debug.callback(lambda _: calls.append(1), row)
        return row

    mask = jnp.arange(len(ROWS)) < needed
    jax.block_until_ready(for_needed_rows(counted, jnp.asarray(ROWS), mask, block))
    jax.effects_barrier()
    assert len(calls) == blocks * block


def test_results_and_rows_may_be_trees():
    mask = np.arange(len(ROWS)) % 3 > 0
    rows = {"row": jnp.asarray(ROWS), "more": jnp.arange(len(ROWS))}

    def function(row: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return two_numbers(row["row"]), row["more"] + 1

    found, more = for_needed_rows(function, rows, jnp.asarray(mask), 4)
    np.testing.assert_allclose(found, expected(mask), rtol=1e-6)
    np.testing.assert_array_equal(more, np.where(mask, np.arange(len(ROWS)) + 1, 0))


def on_a_line(vh: Callable[[jax.Array], jax.Array], speed: float = 1.0) -> PlanningModel:
    """A point that an action moves, with a reward of its position; V_h by position `[C]`."""
    return PlanningModel(
        step=lambda obs, action: (obs + speed * action, obs[:, 0]),
        excess=lambda obs: jnp.maximum(vh(obs[:, 0]), 0.0),
    )


def in_stages(*moves: list[float]) -> jax.Array:
    """Plans `[stages * JUDGED_EVERY, C, 1]`: each number moves the point before a judged step."""
    plans = np.zeros((len(moves), JUDGED_EVERY, len(moves[0]), 1), np.float32)
    plans[:, 0, :, 0] = moves
    return jnp.asarray(plans.reshape(-1, *plans.shape[2:]))


def test_the_excess_of_plans_sums_what_is_infeasible():
    """From 0, with V_h = obs: sums of max(obs, 0) are 1 + 2, 2 + 0 and 1.5 + 1."""
    plans = in_stages([1.0, 2.0, 1.5], [1.0, -2.0, -0.5])
    found = judge_plans(on_a_line(lambda x: x), plans, jnp.zeros(1))
    np.testing.assert_allclose(found.excess, [3.0, 2.0, 2.5])


def test_the_reward_of_plans_is_the_sum_over_all_their_steps():
    """A step earns the position before it: positions 1 to 3 at first, then 1 - 2 or 3 - 1."""
    plans = jnp.array([[[1.0], [3.0]], [[-2.0], [-1.0]], [[0.0], [0.0]]])
    found = judge_plans(on_a_line(lambda x: x), plans, jnp.array([0.5]))
    np.testing.assert_allclose(found.reward, [0.5 + 1.5 - 0.5, 0.5 + 3.5 + 2.5])


def test_the_best_has_the_least_excess_and_of_those_the_most_reward():
    excess, reward = jnp.array([0.0, 2.0, 0.0, 0.0]), jnp.array([1.0, 9.0, 3.0, 3.0])
    same = jnp.zeros(4)
    assert best(Judged(same, excess, reward)) == 2
    assert best(Judged(same, excess + jnp.arange(4.0)[::-1], reward)) == 3
    never, two = jnp.full(2, jnp.inf), jnp.zeros(2)
    assert best(Judged(two, never, jnp.array([1.0, 2.0]))) == 1
    assert best(Judged(never, never, jnp.array([1.0, 2.0]))) == 1
    # A model that diverges says nothing, and one that predicts no reward has no preference.
    assert best(Judged(two, two, jnp.array([LEAST_REWARD, -5.0]))) == 1
    assert best(Judged(two, jnp.array([5.0, 0.0]), jnp.array([1.0, LEAST_REWARD]))) == 1


def test_depth_comes_before_excess_and_excess_before_reward():
    depth, excess = jnp.array([0.2, 0.1, 0.1, 0.1]), jnp.array([0.0, 9.0, 4.0, 4.0])
    assert best(Judged(depth, excess, jnp.array([9.0, 9.0, 1.0, 2.0]))) == 3


def test_what_is_feasible_and_what_is_better_by_hand():
    deep, shallow = Judged(2.0, 0.0, 9.0), Judged(1.0, 5.0, 0.0)
    rest, calm, rich = Judged(0.0, 1.0, 9.0), Judged(0.0, 0.0, -9.0), Judged(0.0, 0.0, -8.0)
    ordered = [jax.tree.map(jnp.float32, x) for x in (rich, calm, rest, shallow, deep)]
    assert [bool(is_feasible(x)) for x in ordered] == [True, True, False, False, False]
    for i, one in enumerate(ordered):
        for j, other in enumerate(ordered):
            assert bool(is_better(one, other)) == (i < j)


def test_with_rules_depth_is_summed_and_only_the_last_state_has_an_excess():
    """From 0 to 1 and 3, or to 2 and -1; depth is what exceeds 1, V_h the distance from 0."""
    plans = in_stages([1.0, 2.0], [2.0, -3.0])
    model = on_a_line(jnp.abs)._replace(depth=lambda obs: jnp.maximum(obs[:, 0] - 1.0, 0.0))
    found = judge_plans(model, plans, jnp.zeros(1))
    np.testing.assert_allclose(found.depth, JUDGED_EVERY * np.array([0.0 + 2.0, 1.0 + 0.0]))
    np.testing.assert_allclose(found.excess, [3.0, 1.0])
    # Without, the excess is summed and there is no depth.
    found = judge_plans(on_a_line(jnp.abs), plans, jnp.zeros(1))
    np.testing.assert_array_equal(found.depth, 0.0)
    np.testing.assert_allclose(found.excess, [1.0 + 3.0, 2.0 + 1.0])


@pytest.mark.parametrize("horizon", [3, 7])
def test_rules_judge_a_state_that_is_unsafe_for_one_step(horizon):
    model = on_a_line(jnp.abs)._replace(depth=lambda obs: jnp.maximum(obs[:, 0] - 0.5, 0.0))

    def resting(key: jax.Array, carry: jax.Array, obs: jax.Array, previous: Previous) -> tuple:
        return jnp.zeros(1), carry

    for peak in range(horizon):
        moves = np.zeros((horizon + 1, 2, 1), np.float32)
        moves[peak, 1], moves[peak + 1, 1] = 1.0, -1.0
        plans = jnp.asarray(moves[:-1])
        np.testing.assert_allclose(judge_plans(model, plans, jnp.zeros(1)).depth, [0.0, 0.5])
        args = (jnp.zeros(1), jnp.float32(0), plans[0], plans[1:], jax.random.key(0))
        np.testing.assert_allclose(judge_policy(model, resting, *args).depth, [0.0, 0.5])


def test_how_feasible_a_state_is_does_not_count():
    """Deep inside the feasible set is as good as just inside."""
    plans = jnp.array([[[-0.1], [-100.0], [1.0]]])
    found = judge_plans(on_a_line(lambda x: x), plans, jnp.zeros(1))
    np.testing.assert_allclose(found.excess, [0.0, 0.0, 1.0])


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_plan_of_least_excess_leads_away_from_the_unsafe_side(side):
    """On a line, 0.5 inside of the unsafe half, at a tenth of the action per step."""
    plans = make_plans(10, 64, 1, 12.0)
    model = on_a_line(lambda x: side * x, speed=0.1)
    found = judge_plans(model, plans, jnp.array([0.5 * side])).excess
    assert float(plans[0, jnp.argmin(found), 0]) * side < -0.4


def test_plans_that_the_model_cannot_follow_have_an_infinite_excess():
    """V_h is not a number at negative positions, and 1 elsewhere."""
    plans = make_plans(10, 64, 1, 100.0)
    model = on_a_line(lambda x: jnp.where(x < 0.0, jnp.nan, 1.0))
    found = np.asarray(judge_plans(model, plans, jnp.zeros(1)).excess)
    positions = np.cumsum(np.asarray(plans[..., 0]), axis=0)
    leaves = (positions[JUDGED_EVERY - 1 :: JUDGED_EVERY] < 0.0).any(axis=0)
    assert leaves.any() and not leaves.all()
    np.testing.assert_array_equal(np.isinf(found), leaves)
    np.testing.assert_allclose(found[~leaves], 10.0 / JUDGED_EVERY)


def test_plans_are_always_the_same_and_within_the_range_of_actions():
    first, second = (np.asarray(make_plans(5, 7, 2, 3.0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (5, 7, 2) and np.abs(first).max() <= 1.0
    held = np.all(first[1:] == first[:-1], axis=-1)
    assert 0.0 < held.mean() < 1.0


def remembering(key: jax.Array, carry: jax.Array, obs: jax.Array, previous: Previous) -> tuple:
    """An action of what was observed, remembered and done; the memory counts steps."""
    action = 0.1 * obs + 0.01 * carry + 0.5 * previous.action + 0.2 * previous.reward
    return action + 0.0 * jax.random.normal(key, action.shape), carry + 1


def test_excess_and_reward_of_a_policy_are_those_of_what_it_would_do():
    """Against a loop in Python, with noise that clips some actions."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-1, 1, (5, 1)).astype(np.float32)
    noise = rng.normal(0, 0.8, (6, 5, 1)).astype(np.float32)
    start, memory = 0.3, 2
    expected, earned = np.zeros(5), np.zeros(5)
    clipped = 0
    for c in range(5):
        position, action, steps = start, float(first[c, 0]), memory
        for t in range(7):
            reward, position = position, position + action
            earned[c] += reward
            if (t + 1) % JUDGED_EVERY == 0 or t == 6:
                expected[c] += max(position - 0.5, 0.0)
            if t < 6:
                wanted = 0.1 * position + 0.01 * steps + 0.5 * action + 0.2 * reward
                wanted, steps = wanted + float(noise[t, c, 0]), steps + 1
                action = float(np.clip(wanted, -1.0, 1.0))
                clipped += action != wanted
    assert clipped and (expected > 0).any()
    found = judge_policy(
        on_a_line(lambda x: x - 0.5),
        remembering,
        jnp.array([start]),
        jnp.float32(memory),
        jnp.asarray(first),
        jnp.asarray(noise),
        jax.random.key(0),
    )
    np.testing.assert_allclose(found.excess, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.reward, earned, rtol=1e-5, atol=1e-6)


def test_a_continuation_in_a_model_that_diverges_has_an_infinite_excess():
    diverging = on_a_line(lambda x: x)._replace(
        step=lambda obs, action: (jnp.full_like(obs, jnp.nan), jnp.full(len(obs), jnp.nan))
    )
    found = judge_policy(
        diverging,
        remembering,
        jnp.zeros(1),
        jnp.float32(0),
        jnp.zeros((3, 1)),
        jnp.zeros((4, 3, 1)),
        jax.random.key(0),
    )
    assert np.isposinf(found.excess).all() and np.all(found.reward == LEAST_REWARD)


@pytest.mark.parametrize("persistence", [1.0, 5.0, 20.0])
def test_persistent_noise_is_normal_and_forgets_at_the_stated_rate(persistence):
    noise = np.asarray(persistent_noise(jax.random.key(0), (40, 4000), persistence))
    np.testing.assert_allclose(noise.std(axis=1), 1.0, atol=0.05)
    np.testing.assert_allclose(noise.mean(axis=1), 0.0, atol=0.07)
    correlation = (noise[5:] * noise[:-5]).mean()
    np.testing.assert_allclose(correlation, np.exp(-5.0 / persistence), atol=0.03)


@pytest.mark.parametrize(("horizon", "judged"), [(1, 1), (4, 1), (5, 1), (6, 2), (12, 3), (25, 5)])
def test_without_rules_every_fifth_state_is_judged_and_the_last_one(horizon, judged):
    model = on_a_line(lambda x: jnp.full_like(x, 3.0))
    plans = jnp.zeros((horizon, 2, 1))
    found = judge_plans(model, plans, jnp.zeros(1)).excess
    np.testing.assert_allclose(found, 3.0 * judged)
    calm = plans[1:]
    start, carry, key = jnp.zeros(1), jnp.float32(0), jax.random.key(0)
    found = judge_policy(model, remembering, start, carry, plans[0], calm, key).excess
    np.testing.assert_allclose(found, 3.0 * judged)
