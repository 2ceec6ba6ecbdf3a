"""Agreement of cost network and V_h with true costs, by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.algorithms import feasibility
from proco_jax.augmentation import rollouts
from proco_jax.common.batching import in_blocks
from proco_jax.diagnostics import critics as diagnostics
from proco_jax.models import cost
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Episode, LabeledStates

NORMALIZER = Normalizer(jnp.zeros(2), jnp.ones(2))


def test_steps_to_violation_by_hand():
    found = diagnostics.steps_to_violation(np.array([0.0, 0, 1, 0, 2, 0]))
    np.testing.assert_array_equal(found, [3, 2, 1, 2, 1, np.inf])


def test_label_agreement_by_hand():
    unsafe = np.array([1.0, 0.7, 0.2, 0.0])
    labels = LabeledStates(np.zeros((4, 1)), unsafe, unsafe, unsafe)
    called = np.array([True, False, True, False])
    assert diagnostics.label_agreement(called, labels) == {"recall": 0.5, "precision": 0.5}


def test_agreement_without_unsafe_states_is_none():
    zero = np.zeros(2)
    labels = LabeledStates(np.zeros((2, 1)), zero, zero, zero)
    none = np.zeros(2, bool)
    assert diagnostics.label_agreement(none, labels) == {"recall": None, "precision": None}
    net: Any = None
    nothing: Any = None
    found = diagnostics.cost_agreement(net, nothing, [])
    assert found == {"true_recall": None, "true_precision": None}


def test_cost_agreement_counts_next_states_by_hand():
    class FirstNumber:
        def apply(self, params: Any, obs: jax.Array) -> jax.Array:
            return params * obs[..., :1]

    net: Any = FirstNumber()
    fitted = cost.CostModel(jnp.ones(1), NORMALIZER, jnp.float32(0.0), jnp.float32(1.5))
    obs = np.array([[9.0, 0], [1, 0], [2, 0], [3, 0], [0, 0]], np.float32)
    costs = np.array([1.0, 1, 0, 0], np.float32)
    one = Episode(obs, np.zeros((4, 1)), np.zeros(4), costs, False)
    # Next states 1, 2, 3, 0: called are 2 and 3, true are 1 and 2.
    found = diagnostics.cost_agreement(net, fitted, [one])
    assert found == {"true_recall": 0.5, "true_precision": 0.5, "true_unsafe_states": 2}


def imagined(last: np.ndarray) -> rollouts.Imagined:
    count = len(last)
    obs = np.stack([np.full_like(last, 99.0), last, np.full_like(last, 77.0)], axis=1)
    unsafe = np.zeros((count, 2), bool)
    unsafe[0, 0], unsafe[1, 1] = True, True
    length = np.ones(count, np.int32)
    action, reward, source = np.zeros((count, 2, 1)), np.zeros((count, 2)), np.zeros(count, int)
    origin = np.full(count, rollouts.NOWHERE)
    return rollouts.Imagined(obs, action, reward, unsafe, length, source, origin)


def test_rollouts_report_measures_the_last_kept_state():
    logged = np.repeat(np.arange(5.0), 2)[:, None] * np.ones(2)
    report = diagnostics.rollouts_report(imagined(logged[:4] + 0.25), logged, NORMALIZER)
    assert report["trajectories"] == 4
    # Only the first violates within its length of 1.
    assert report["violating_share"] == 0.25
    assert report["distance_logged"]["0.90"] == pytest.approx(0.0, abs=1e-3)
    assert report["distance_imagined"]["0.50"] == pytest.approx(0.25, abs=1e-3)


def known_values() -> tuple[Any, Any]:
    """Networks and parameters of two seeds whose V_h is the place, and the place minus 1."""

    class Place:
        def apply(self, shift: Any, obs: jax.Array) -> jax.Array:
            return obs[..., :1] + shift

    nets: Any = feasibility.Networks(None, Place())  # pyright: ignore
    return nets, {"v": jnp.array([0.0, -1.0])}


def placed(places: list[float], costs: list[float]) -> Episode:
    obs = np.stack([places, np.zeros(len(places))], axis=1).astype(np.float32)
    steps = len(costs)
    return Episode(obs, np.zeros((steps, 1)), np.zeros(steps), np.array(costs), False)


def test_values_of_every_seed_by_hand():
    nets, params = known_values()
    found = diagnostics.values(nets, params, NORMALIZER, np.array([[0.5, 0], [2, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.5, 2.0], [-0.5, 1.0]])


def test_feasibility_report_by_hand():
    nets, params = known_values()
    safe = placed([-1.0, 0.5, 0.5, 2.0, 0.0], [0.0] * 4)
    # Rises towards a violation, which V_h predicts.
    bad = placed([i / 10 for i in range(-40, 1)], [0.0] * 39 + [1.0])
    report = diagnostics.feasibility_report(
        nets, params, NORMALIZER, lambda obs: -obs[..., 0], [safe], [bad]
    )
    # Seed 0 calls 3 of 4 infeasible, seed 1 one of 4.
    assert report["false_infeasible_by_seed"] == [0.75, 0.25]
    assert report["false_infeasible_share"] == 0.5
    for window in ("1", "10", "25"):
        assert report["auroc"][window]["v_h"] == 1.0
        assert report["auroc"][window]["trivial"] == 0.0
    # Every state of the episode violates within 50 steps.
    assert "50" not in report["auroc"]
    assert report["found_10_steps"] == 0.0


def test_feasibility_report_without_episodes_is_empty():
    nets, params = known_values()
    report = diagnostics.feasibility_report(nets, params, NORMALIZER, None, [], [])
    assert report == {"false_infeasible_share": None, "auroc": {}, "found_10_steps": None}


def test_states_that_cost_do_not_count_as_predictions():
    nets, params = known_values()
    # The state after the first cost has a low value and is left out.
    bad = placed([-3.0, -2, -99, -1, 0, 0], [0.0, 1, 0, 0, 1])
    report = diagnostics.feasibility_report(nets, params, NORMALIZER, None, [], [bad])
    # Left are places -3, -2, -1 and 0, of which -2 and 0 cost at once.
    assert report["auroc"]["1"]["share"] == pytest.approx(0.5)
    assert report["auroc"]["1"]["trivial"] is None


@pytest.mark.parametrize(
    ("count", "blocks"), [(1, [256]), (256, [256]), (300, [512]), (5000, [4096, 4096])]
)
def test_blocks_are_of_few_sizes(count, blocks):
    seen = []

    def double(v):
        seen.append(len(v))
        return 2 * v

    x = np.arange(float(count))
    np.testing.assert_array_equal(in_blocks(double, x), 2 * x)
    assert seen == blocks


def test_blocks_of_any_size_give_the_same_result():
    x = np.arange(10.0)
    for size in (1, 3, 10, 64):
        np.testing.assert_array_equal(in_blocks(lambda v: 2 * v, x, size=size), 2 * x)
        pair = in_blocks(lambda v: (v[None], 2 * v[None]), x, size=size)
        np.testing.assert_array_equal(pair[1], 2 * x[None])
