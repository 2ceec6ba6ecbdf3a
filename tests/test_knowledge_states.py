"""Choosing states, and saying them in words."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proco_jax.envs.tasks import TASKS, get_task
from proco_jax.knowledge.state_descriptions import describe, direction_text, front_angle
from proco_jax.knowledge.state_selection import choose_disagreeing, choose_states
from proco_jax.observation import Field, ObservationSpec

RING = ObservationSpec(
    (
        Field("velocity", 3, "vector", "m/s", "velocity"),
        Field("holes", 16, "ring", "closeness", "holes", reach=3.0),
        Field("pressure", 1, "flat", "kPa", "pressure"),
        Field("codes", 20, "flat", "", "codes"),
    )
)


def state(distance: float, angle: float, velocity=(0.0, 0.0, 0.0), pressure=0.0) -> np.ndarray:
    obs = np.zeros(RING.size)
    obs[:3], obs[19] = velocity, pressure
    near, where = max(0.0, 3 - distance) / 3, (angle % (2 * np.pi)) / (2 * np.pi) * 16
    i, alias = int(where) % 16, where - int(where)
    obs[3 + i], obs[3 + (i + 1) % 16], obs[3 + (i - 1) % 16] = (
        near,
        alias * near,
        (1 - alias) * near,
    )
    return obs


def line(text: str, field: str) -> str:
    return next(x for x in text.splitlines() if x.startswith(f"- {field}: "))


@given(st.floats(0.0, 2.9), st.floats(-3.1, 3.1), st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_distance_direction_and_speed_are_read_back(d: float, a: float, u: float, v: float) -> None:
    text = line(describe(state(d, a, (u, v, 0.0)), RING), "holes")
    found = re.match(
        r"- holes: nearest ([\d.]+) m, (straight ahead|straight behind|(\d+) deg (left|right)),"
        r" (neither|(coming closer|receding) at ([\d.]+) m/s)",
        text,
    )
    assert found is not None, text
    assert float(found[1]) == pytest.approx(d, abs=0.006)
    if found[3]:
        angle = np.radians(float(found[3])) * (1 if found[4] == "left" else -1)
        assert abs(np.remainder(angle - a + np.pi, 2 * np.pi) - np.pi) < 0.02
    closing = u * np.cos(a) + v * np.sin(a)
    said = float(found[7] or 0.0) * (1 if found[6] == "coming closer" else -1)
    assert said == pytest.approx(closing, abs=0.05)


def test_a_state_in_words() -> None:
    obs = state(0.31, np.radians(22), (0.8, 0.0, 0.0), 12.345)
    obs[3 + 8] = 0.5
    assert describe(obs, RING).splitlines()[:3] == [
        "- velocity: 0.80 m/s towards straight ahead in the plane, 0.00 m/s up",
        "- holes: nearest 0.31 m, 22 deg left, coming closer at 0.74 m/s;"
        " then 1.50 m, 169 deg right",
        "- pressure: 12.35 kPa",
    ]


def test_extremes_have_words() -> None:
    nothing = describe(np.zeros(RING.size), RING)
    assert line(nothing, "holes") == "- holes: nothing within 3 m"
    assert line(nothing, "velocity") == "- velocity: 0.00 m/s in the plane, 0.00 m/s up"
    full = np.ones(RING.size) * 1e6
    assert "nearest 0.00 m" in describe(full, RING)
    assert "1e+06 kPa" in describe(full, RING)
    assert "and 4 more" in line(nothing, "codes")
    with pytest.raises(ValueError, match="finite"):
        describe(np.full(RING.size, np.nan), RING)
    with pytest.raises(ValueError, match="shape"):
        describe(np.zeros(3), RING)


def test_ahead_is_where_the_robot_drives() -> None:
    assert front_angle(get_task("PointGoal1").spec) == 0.0
    assert front_angle(get_task("CarGoal1").spec) == pytest.approx(-np.pi / 2)
    assert direction_text(-np.pi / 2, -np.pi / 2) == "straight ahead"
    assert direction_text(0.0, -np.pi / 2) == "90 deg left"
    assert direction_text(np.pi / 2, -np.pi / 2) == "straight behind"


@pytest.mark.parametrize("name", TASKS)
def test_states_of_every_task_have_a_line_for_each_field(name: str) -> None:
    spec = TASKS[name].spec
    text = describe(np.random.default_rng(0).random(spec.size), spec)
    assert [x.split(":")[0][2:] for x in text.splitlines()] == [f.name for f in spec.fields]
    assert "nan" not in text


def clusters() -> np.ndarray:
    """A thousand states of one kind, and ten of each of nine others."""
    rng = np.random.default_rng(0)
    sizes = [1000] + [10] * 9
    return np.concatenate([rng.normal(8.0 * i, 0.1, (n, 5)) for i, n in enumerate(sizes)])


def test_rare_states_are_chosen_as_often_as_common_ones() -> None:
    obs = clusters()
    chosen = choose_states(obs, 50, seed=0)
    assert len(np.unique(chosen)) == 50 and (np.diff(chosen) > 0).all()
    kinds = np.bincount(np.round(obs[chosen, 0] / 8).astype(int), minlength=10)
    assert kinds.min() >= 1 and kinds[0] < 40


def test_the_same_states_and_seed_give_the_same_sample() -> None:
    obs = clusters()
    np.testing.assert_array_equal(choose_states(obs, 40, 1), choose_states(obs, 40, 1))
    assert (choose_states(obs, 40, 1) != choose_states(obs, 40, 2)).any()


def test_a_share_is_chosen_near_the_boundary_from_both_sides() -> None:
    obs = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    margin = obs[:, 0]
    chosen = choose_states(obs, 100, 0, margin, boundary_share=0.5)
    near = np.abs(margin[chosen]) < 0.15
    assert len(chosen) == 100 and near.sum() >= 50
    assert (margin[chosen][near] > 0).sum() >= 20 and (margin[chosen][near] < 0).sum() >= 20
    few = np.where(np.arange(2000) < 3, 0.1, -1.0 - np.abs(margin))
    assert set(choose_states(obs, 100, 0, few, 0.5)) >= {0, 1, 2}
    assert len(choose_states(obs, 100, 0, np.full(2000, np.nan), 0.5)) == 100
    assert len(choose_states(obs, 5000, 0, margin, 0.5)) == 2000


def test_a_sample_of_identical_states_is_still_a_sample() -> None:
    assert len(choose_states(np.ones((100, 3)), 10, 0)) == 10
    with pytest.raises(ValueError, match="finite"):
        choose_states(np.full((10, 3), np.inf), 5, 0)
    with pytest.raises(ValueError, match="10 margins"):
        choose_states(np.ones((10, 3)), 5, 0, np.ones(3))


def test_further_rounds_ask_about_what_was_not_asked_and_is_in_doubt() -> None:
    obs = np.random.default_rng(0).normal(size=(500, 3))
    score = np.arange(500.0)
    asked = np.arange(490, 500)
    chosen = choose_disagreeing(obs, score, 20, 0, asked)
    assert len(chosen) == 20 and not set(chosen) & set(asked) and chosen.min() >= 410
