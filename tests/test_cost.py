import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import SPEC, drawn, same_leaves, tiny_config

from proco_jax.models import cost
from proco_jax.models.normalizer import Normalizer
from proco_jax.training import loop

CONFIG = tiny_config().cost
NET = cost.network(CONFIG, tiny_config().encoder, SPEC)
PLAIN = Normalizer(jnp.zeros(SPEC.size), jnp.ones(SPEC.size))


class FirstNumber:
    """One logit a state: its first number times the member's parameter."""

    def apply(self, params: Any, obs: jax.Array) -> jax.Array:
        return params * obs[..., :1]


def known(threshold: float = 0.0, ucb_coefficient: float = 1.0) -> cost.CostModel:
    members = jnp.array([1.0, 3.0])
    return cost.CostModel(members, PLAIN, jnp.float32(ucb_coefficient), jnp.float32(threshold))


def states(*first: float) -> jax.Array:
    return jnp.zeros((len(first), SPEC.size)).at[:, 0].set(jnp.array(first))


def test_score_is_mean_plus_deviations_by_hand():
    net: Any = FirstNumber()
    # Logits 1 and 3 have mean 2 and deviation 1.
    np.testing.assert_allclose(cost.score(net, known(), states(1.0, -1.0)), [3.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(cost.score(net, known(ucb_coefficient=0.0), states(1.0)), [2.0])


def test_unsafe_begins_at_the_threshold():
    net: Any = FirstNumber()
    found = cost.unsafe(net, known(threshold=3.0), states(0.9, 1.0, 1.1))
    np.testing.assert_array_equal(found, [False, True, True])


def test_disagreement_among_members_only_raises_the_score():
    net: Any = FirstNumber()
    obs = states(-2.0, -0.5, 0.5, 2.0)
    bound = cost.score(net, known(ucb_coefficient=1.0), obs)
    assert np.all(bound >= cost.score(net, known(ucb_coefficient=0.0), obs))


def test_score_batched_equals_per_row():
    like = jax.eval_shape(lambda k: cost.init(CONFIG, NET, k), jax.random.key(0))
    model = known()._replace(params=drawn(like.params))
    obs = jax.random.uniform(jax.random.key(1), (4, SPEC.size))
    score = jax.jit(functools.partial(cost.score, NET))
    batched = score(model, obs)
    assert batched.shape == (4,)
    np.testing.assert_allclose(batched, [score(model, row) for row in obs], atol=1e-4)


def test_conformal_threshold_by_hand():
    scores = np.array([5.0, 1.0, 3.0, 2.0, 4.0, 9.0, 8.0, 7.0, 6.0])
    # n = 9: k = floor(10 * 0.1) = 1, floor(10 * 0.2) = 2, floor(10 * 0.5) = 5.
    assert cost.conformal_threshold(scores, 0.9) == 1.0
    assert cost.conformal_threshold(scores, 0.8) == 2.0
    assert cost.conformal_threshold(scores, 0.5) == 5.0


def test_too_few_labels_for_a_recall_are_rejected_with_the_number_needed():
    with pytest.raises(ValueError, match="at least 99 are needed"):
        cost.conformal_threshold(np.arange(98.0), 0.99)
    assert cost.conformal_threshold(np.arange(99.0), 0.99) == 0.0
    with pytest.raises(ValueError, match="0 held-out"):
        cost.conformal_threshold(np.array([]), 0.9)


@pytest.mark.parametrize("recall", [0.8, 0.95])
def test_conformal_threshold_has_the_stated_recall_on_new_states(recall):
    rng = np.random.default_rng(0)
    caught = []
    for _ in range(300):
        scores = rng.gumbel(size=240)
        threshold = cost.conformal_threshold(scores[:40], recall)
        caught.append(np.mean(scores[40:] >= threshold))
    # At least the recall on average, and not much more.
    assert recall - 0.01 <= np.mean(caught) <= recall + 0.04


@pytest.fixture(scope="module")
def fitted():
    """The fit of the rule "a hazard in any bin closer than 0.8", and states that it never saw."""
    rng = np.random.default_rng(1)
    obs = rng.uniform(0, 0.6, (2000, SPEC.size)).astype(np.float32)
    hazards = SPEC.slices["hazards"]
    near = np.arange(2000) % 2 == 0
    bins = rng.integers(0, 8, 2000)
    obs[np.arange(2000), hazards.start + bins] = np.where(near, 0.95, 0.65)
    train_rows, new = slice(0, 1600), slice(1600, None)
    labels = cost.Labels(jnp.asarray(obs[train_rows]), jnp.asarray(near[train_rows], jnp.float32))
    like = jax.eval_shape(lambda k: cost.init(CONFIG, NET, k), jax.random.key(0))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like.replace(key=jnp.zeros(())))
    state = state.replace(params=drawn(like.params), key=jax.random.key(0))
    learned, metrics = loop.make_cost_chunk(tiny_config(), NET, CONFIG.steps)(labels, state)
    return learned, metrics, obs[new], near[new]


def test_cost_network_learns_a_simple_rule_and_misses_little_of_it(fitted):
    learned, metrics, obs, near = fitted
    model = known()._replace(params=learned.params)
    unsafe = np.asarray(jax.jit(functools.partial(cost.unsafe, NET))(model, obs))
    assert unsafe[near].mean() > 0.97
    assert unsafe[~near].mean() < 0.1
    assert np.all(np.isfinite(metrics["cost/loss"]))


def test_members_differ(fitted):
    for x in jax.tree.leaves(fitted[0].params):
        assert not np.array_equal(x[0], x[1])
    np.testing.assert_array_equal(fitted[0].step, CONFIG.steps)


def test_a_step_depends_on_its_state_alone(fitted):
    labels = cost.Labels(jnp.asarray(fitted[2]), jnp.asarray(fitted[3], jnp.float32))
    step = jax.jit(functools.partial(cost.update, CONFIG, NET, labels))
    same_leaves(step(fitted[0])[0], step(fitted[0])[0])


@pytest.mark.slow
def test_fits_of_different_keys_differ():
    state = jax.eval_shape(lambda k: cost.init(CONFIG, NET, k), jax.random.key(0))
    params = drawn(state.params)
    optimizer = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.optimizer)
    obs = jax.random.uniform(jax.random.key(1), (200, SPEC.size))
    labels = cost.Labels(obs, (obs[:, 0] > 0.5).astype(jnp.float32))
    step = jax.jit(functools.partial(cost.update, CONFIG, NET, labels))
    # Adam's first step is the sign of the gradient, which fits may share; later steps differ.
    first, second = (
        step(step(cost.CostState(params, optimizer, jnp.int32(0), jax.random.key(seed)))[0])[0]
        for seed in (2, 3)
    )
    leaves = jax.tree.leaves(first.params), jax.tree.leaves(second.params)
    for a, b in zip(*leaves, strict=True):
        assert not np.array_equal(a, b)
