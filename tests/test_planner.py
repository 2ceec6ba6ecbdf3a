"""The planner searches short action sequences in the model, for the rows that need it alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.deployment.planner import best_first_action, for_needed_rows, make_plans

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


def test_the_plan_with_the_least_infeasibility_is_taken():
    """From 0, with V_h = obs: sums of max(obs, 0) are 1 + 2, 2 + 0 and 1.5 + 1."""
    plans = jnp.array([[[1.0], [2.0], [1.5]], [[1.0], [-2.0], [-0.5]]])
    chosen = best_first_action(lambda o, a: o + a, lambda o: o[:, 0], plans, jnp.zeros(1))
    np.testing.assert_array_equal(chosen, [2.0])


def test_how_feasible_a_state_is_does_not_count():
    """Deep inside the feasible set is as good as just inside; the first of equals is taken."""
    plans = jnp.array([[[-0.1], [-100.0], [1.0]]])
    chosen = best_first_action(lambda o, a: o + a, lambda o: o[:, 0], plans, jnp.zeros(1))
    np.testing.assert_allclose(chosen, [-0.1])


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_plan_leads_away_from_the_unsafe_side(side):
    """On a line, 0.5 inside of the unsafe half, at a tenth of the action per step."""
    chosen = best_first_action(
        lambda obs, action: obs + 0.1 * action,
        lambda obs: side * obs[:, 0],
        make_plans(10, 64, 1, 12.0),
        jnp.array([0.5 * side]),
    )
    assert float(chosen[0]) * side < -0.4


def test_plans_that_the_model_cannot_follow_are_not_taken():
    """V_h is not a number at negative positions, and 1 elsewhere."""

    def vh(obs: jax.Array) -> jax.Array:
        return jnp.where(obs[:, 0] < 0.0, jnp.nan, 1.0)

    plans = make_plans(10, 64, 1, 100.0)
    assert float(plans[0].min()) < 0.0
    chosen = best_first_action(lambda o, a: o + a, vh, plans, jnp.zeros(1))
    assert float(chosen[0]) >= 0.0


def test_a_model_that_always_diverges_still_gives_an_action():
    plans = make_plans(3, 4, 2, 2.0)
    chosen = best_first_action(
        lambda o, a: jnp.full_like(o, jnp.inf), lambda o: o[:, 0], plans, jnp.zeros(3)
    )
    assert np.isfinite(chosen).all() and (np.abs(chosen) <= 1.0).all()


def test_plans_are_always_the_same_and_within_the_range_of_actions():
    first, second = (np.asarray(make_plans(5, 7, 2, 3.0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (5, 7, 2) and np.abs(first).max() <= 1.0
    held = np.all(first[1:] == first[:-1], axis=-1)
    assert 0.0 < held.mean() < 1.0
