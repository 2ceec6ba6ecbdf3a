import numpy as np
import pytest

from proco_jax.envs.tasks import get_task
from proco_jax.knowledge.files import load_knowledge
from proco_jax.knowledge.labelers import shipped_rule
from proco_jax.knowledge.state_variation import varied_fields, vary_states
from proco_jax.observation import Field, ObservationSpec
from proco_jax.rules.rule import parse_rule

SPEC = ObservationSpec(
    (
        Field("velocity", 3, "vector", "m/s", "velocity"),
        Field("compass", 2, "vector", "0.5 times a direction", "north"),
        Field("holes", 16, "ring", "closeness", "holes", reach=3.0),
        Field("speed", 1, "flat", "m/s", "speed"),
        Field("matrix", 4, "flat", "entries in [-1, 1]", "orientation"),
    )
)


def far_state() -> np.ndarray:
    """A hole 1.5 m away, an eighth of the way from bin 4 to bin 5."""
    obs = np.zeros((1, SPEC.size), np.float32)
    obs[0, :2], obs[0, 3:5] = (0.3, 0.4), (0.3, -0.4)
    obs[0, 5 + 4], obs[0, 5 + 5], obs[0, 5 + 3] = 0.5, 0.0625, 0.4375
    obs[0, 21] = 1.0
    return obs


def test_objects_come_nearer_than_any_log_has_them() -> None:
    varied = vary_states(far_state(), SPEC, ["holes"], 4000, 0)
    margin = np.asarray(parse_rule("nearest(holes) <= 0.2 m", SPEC).margin(varied))
    assert (margin > 0).mean() > 0.02 and margin.max() > 0.19
    assert (margin < -1.29).mean() > 0.5
    ring = varied[:, 5:21]
    assert ring.min() >= 0 and ring.max() <= 1


def test_a_moved_object_still_reads_like_one() -> None:
    varied = vary_states(far_state(), SPEC, ["holes"], 500, 0)[:, 5:21]
    top = varied.argmax(axis=1)
    rows = np.arange(len(varied))
    near = varied[rows, top]
    shares = (varied[rows, (top + 1) % 16] + varied[rows, top - 1]) / np.maximum(near, 1e-9)
    np.testing.assert_allclose(shares[near > 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(varied.sum(axis=1), 2 * near, atol=1e-5)
    assert len(np.unique(top)) == 16


def test_vectors_turn_and_only_those_with_a_unit_stretch() -> None:
    varied = vary_states(far_state(), SPEC, ["velocity", "compass", "speed"], 2000, 0)
    speed = np.hypot(varied[:, 0], varied[:, 1])
    assert speed.min() < 0.05 and speed.max() > 0.9
    np.testing.assert_allclose(np.hypot(varied[:, 3], varied[:, 4]), 0.5, atol=1e-5)
    assert varied[:, 21].max() > 1.9 and varied[:, 21].min() < 0.1


def test_a_larger_stretch_reaches_further_and_keeps_what_has_no_unit() -> None:
    names = ["velocity", "compass", "holes", "speed"]
    wide = vary_states(far_state(), SPEC, names, 2000, 0, stretch=10.0)
    speed = np.hypot(wide[:, 0], wide[:, 1])
    assert 4.5 < speed.max() <= 5.0 and 9.0 < wide[:, 21].max() <= 10.0
    np.testing.assert_allclose(np.hypot(wide[:, 3], wide[:, 4]), 0.5, atol=1e-5)
    assert wide[:, 5:21].min() >= 0 and wide[:, 5:21].max() <= 1


def test_what_is_not_named_stays_and_the_seed_decides() -> None:
    varied = vary_states(far_state(), SPEC, ["holes"], 50, 0)
    np.testing.assert_array_equal(varied[:, :5], np.repeat(far_state()[:, :5], 50, axis=0))
    np.testing.assert_array_equal(varied, vary_states(far_state(), SPEC, ["holes"], 50, 0))
    assert (varied != vary_states(far_state(), SPEC, ["holes"], 50, 1)).any()
    assert varied_fields(SPEC) == ("velocity", "holes", "speed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CarButton1", "PointCircle2", "HopperVelocity", "AntVelocity"])
def test_safe_states_become_unsafe_ones_and_stay_safe_ones(name: str) -> None:
    task = get_task(name)
    knowledge = load_knowledge(task.name, task.spec)
    rule = shipped_rule(knowledge)
    limit = task.velocity_limit if np.isfinite(task.velocity_limit) else 0.0
    obs = np.zeros((1, task.spec.size), np.float32)
    for f in task.spec.rings:
        start = task.spec.slices[f.name].start
        obs[0, start : start + 2] = 0.85, 0.85
    for f in task.spec.fields:
        if f.name.endswith("velocity_x"):
            obs[0, task.spec.slices[f.name]] = 0.8 * limit
        if f.name == "magnetometer":
            obs[0, task.spec.slices[f.name].start] = 0.5
    assert float(rule.margin(obs)[0]) < 0
    unsafe = np.asarray(rule.unsafe(vary_states(obs, task.spec, rule.fields, 2000, 0)))
    assert 0.01 < unsafe.mean() < 0.99
