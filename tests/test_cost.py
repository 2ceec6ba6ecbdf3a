import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import SPEC, drawn, same_leaves, tiny_config, toy_parts

from proco_jax.models import cost
from proco_jax.models.normalizer import Scale
from proco_jax.training import loop as train

PARTS = toy_parts()
CONFIG, NET = PARTS.config.cost, PARTS.cost
PLAIN = Scale(jnp.zeros(SPEC.size), jnp.ones(SPEC.size))


class FirstNumber:
    """One logit a state: its first number times the member's parameter."""

    def apply(self, params: Any, obs: jax.Array) -> jax.Array:
        return params * obs[..., :1]


def known(threshold: float = 0.0, deviations: float = 1.0) -> cost.CostModel:
    members = jnp.array([1.0, 3.0])
    return cost.CostModel(members, PLAIN, jnp.float32(deviations), jnp.float32(threshold))


def states(*first: float) -> jax.Array:
    return jnp.zeros((len(first), SPEC.size)).at[:, 0].set(jnp.array(first))


def test_score_is_mean_plus_deviations_by_hand():
    net: Any = FirstNumber()
    # Logits 1 and 3 have mean 2 and deviation 1.
    np.testing.assert_allclose(cost.score(net, known(), states(1.0, -1.0)), [3.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(cost.score(net, known(deviations=0.0), states(1.0)), [2.0])


def test_unsafe_begins_at_the_threshold():
    net: Any = FirstNumber()
    found = cost.unsafe(net, known(threshold=3.0), states(0.9, 1.0, 1.1))
    np.testing.assert_array_equal(found, [False, True, True])


def test_disagreement_among_members_only_raises_the_score():
    net: Any = FirstNumber()
    obs = states(-2.0, -0.5, 0.5, 2.0)
    bound = cost.score(net, known(deviations=1.0), obs)
    assert np.all(bound >= cost.score(net, known(deviations=0.0), obs))


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


def test_too_few_labels_for_a_recall_are_refused_with_the_number_needed():
    with pytest.raises(ValueError, match="at least 99 are needed"):
        cost.conformal_threshold(np.arange(98.0), 0.99)
    assert cost.conformal_threshold(np.arange(99.0), 0.99) == 0.0
    with pytest.raises(ValueError, match="0 held-out"):
        cost.conformal_threshold(np.array([]), 0.9)


@pytest.mark.parametrize("recall", [0.8, 0.95])
def test_conformal_threshold_catches_new_states_as_often_as_stated(recall):
    rng = np.random.default_rng(0)
    caught = []
    for _ in range(300):
        scores = rng.gumbel(size=240)
        threshold = cost.conformal_threshold(scores[:40], recall)
        caught.append(np.mean(scores[40:] >= threshold))
    # At least the recall on average, and not all there is.
    assert recall - 0.01 <= np.mean(caught) <= recall + 0.04


@pytest.fixture(scope="module")
def fitted():
    """Two fits of the rule "a hazard in any bin closer than 0.8", one key each."""
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
    state = state.replace(params=drawn(like.params))
    both = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    both = both.replace(key=train.seed_keys(0, 2))
    learned, metrics = train.make_cost_chunk(PARTS, tiny_config().cost.steps)(labels, both)
    return learned, metrics, obs[new], near[new]


def test_cost_network_learns_a_simple_rule_and_misses_little_of_it(fitted):
    learned, metrics, obs, near = fitted
    model = known()._replace(params=jax.tree.map(lambda x: x[0], learned.params))
    called = np.asarray(jax.jit(functools.partial(cost.unsafe, NET))(model, obs))
    assert called[near].mean() > 0.97
    assert called[~near].mean() < 0.1
    assert np.all(np.isfinite(metrics["cost/loss"]))


def test_members_and_fits_differ(fitted):
    leaves = jax.tree.leaves(fitted[0].params)
    for x in leaves:
        assert not np.array_equal(x[0], x[1])
        assert not np.array_equal(x[:, 0], x[:, 1])
    np.testing.assert_array_equal(fitted[0].step, CONFIG.steps)


def test_a_step_is_a_function_of_its_state_alone(fitted):
    state = jax.tree.map(lambda x: x[0], fitted[0])
    labels = cost.Labels(jnp.asarray(fitted[2]), jnp.asarray(fitted[3], jnp.float32))
    step = jax.jit(functools.partial(cost.update, CONFIG, NET, labels))
    same_leaves(step(state)[0], step(state)[0])
