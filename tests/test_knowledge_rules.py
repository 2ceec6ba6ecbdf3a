import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proco_jax.observation import Field, ObservationSpec
from proco_jax.rules.functions import FUNCTIONS
from proco_jax.rules.rule import parse_rule
from proco_jax.rules.syntax import MAX_DEPTH, MAX_LENGTH, RuleError

SPEC = ObservationSpec(
    (
        Field("velocimeter", 3, "vector", "m/s", "velocity"),
        Field("hazards_lidar", 16, "ring", "closeness in [0, 1]", "hazards", reach=3.0),
        Field("goal_lidar", 16, "ring", "closeness in [0, 1]", "goal", reach=3.0),
        Field("temperature", 1, "flat", "K", "temperature"),
        Field("angle", 1, "flat", "deg", "an angle"),
    )
)


def ring(distance: float, bearing: float, reach: float = 3.0, bins: int = 16) -> np.ndarray:
    """One object's reading, shared with the neighbours as the simulator does."""
    reading = np.zeros(bins, np.float32)
    sensor, where = max(0.0, reach - distance) / reach, (bearing % (2 * np.pi)) / (2 * np.pi) * bins
    i, alias = int(where) % bins, where - int(where)
    reading[i] = sensor
    reading[(i + 1) % bins] = alias * sensor
    reading[(i - 1) % bins] = (1 - alias) * sensor
    return reading


def state(hazard=(1.0, 0.0), velocity=(0.0, 0.0, 0.0), goal=(2.0, 0.0), temperature=300.0, angle=0):
    return np.concatenate(
        [velocity, ring(*hazard), ring(*goal), [temperature, angle]], dtype=np.float32
    )


def margin(text: str, obs: np.ndarray) -> float:
    return float(parse_rule(text, SPEC).margin(obs[None])[0])


def test_nearest_hazard_reads_the_distance_in_metres() -> None:
    assert margin("nearest(hazards_lidar) <= 0.2 m", state((0.15, 1.0))) == pytest.approx(
        0.05, abs=1e-5
    )
    assert margin("nearest(hazards_lidar) <= 20 cm", state((1.0, 1.0))) == pytest.approx(
        -0.8, abs=1e-5
    )


def test_a_widened_rule_is_unsafe_up_to_the_widening() -> None:
    rule = parse_rule("nearest(hazards_lidar) <= 0.2 m", SPEC)
    obs = np.stack([state((d, 0.3)) for d in (0.19, 0.21, 0.24, 0.26)])
    np.testing.assert_array_equal(rule.unsafe(obs), [True, False, False, False])
    np.testing.assert_array_equal(rule.unsafe(obs, 0.05), [True, True, True, False])
    assert rule.unit == "m" and rule.fields == ("hazards_lidar",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("velocimeter.x > 0.5 m/s", 0.3),
        ("velocimeter.x > 1.8 km/h", 0.3),
        ("not velocimeter.x > 0.5 m/s", -0.3),
        ("velocimeter.x > 0.5 m/s and velocimeter.y > 0.5 m/s", -1.1),
        ("velocimeter.x > 0.5 m/s or velocimeter.y > 0.5 m/s", 0.3),
        ("norm(velocimeter.xy) > 0.5 m/s", 0.5),
        ("0.1 m/s <= velocimeter.x < 1 m/s", 0.2),
        ("abs(velocimeter[1]) - 0.1 m/s >= 0", 0.5),
        ("max(velocimeter.x, velocimeter.y, 0) >= 2 * 0.25 m/s", 0.3),
        ("velocimeter.x * 2 s > 1 m", 0.6),
        ("sqrt(velocimeter.x * velocimeter.x) / 2 > 0.1 m/s", 0.3),
        ("temperature > 290 K", 10.0),
        ("angle > 90 deg", np.pi / 2),
        ("sin(angle) > 0.5", -0.5),
        ("-velocimeter.y > 0.1 m/s", 0.5),
        ("where(temperature > 290 K, 1 m, 2 m) > 0.5 m", 0.5),
        ("velocimeter.x > 0.5 m/s or not (temperature > 290 K and temperature > 280 K)", 0.3),
    ],
)
def test_margins_worked_by_hand(text: str, expected: float) -> None:
    obs = state(velocity=(0.8, -0.6, 0.0), angle=180)
    assert margin(text, obs) == pytest.approx(expected, abs=1e-4)


@given(st.floats(0.0, 2.9), st.floats(-3.1, 3.1))
@settings(max_examples=20, deadline=None)
def test_bearing_distance_and_components_of_a_lone_object(distance: float, bearing: float) -> None:
    obs = state((distance, bearing), velocity=(1.0, 0.0, 0.0))
    error = f"abs(bearing(hazards_lidar) - {abs(bearing):.6f} rad)"
    if bearing < 0:
        error = error.replace("- ", "+ ")
    assert margin(f"{error} <= 0.01 rad", obs) >= 0
    along = distance * np.cos(bearing - np.pi / 2)
    assert margin("along(hazards_lidar, 90 deg) <= 0 m", obs) == pytest.approx(-along, abs=2e-3)
    closing = margin("approach(hazards_lidar, velocimeter) > 0 m/s", obs)
    assert closing == pytest.approx(np.cos(bearing), abs=2e-3)


def test_what_one_ring_sees_and_another_does_not() -> None:
    rule = (
        "min(where(distance(goal_lidar) - distance(hazards_lidar) > 0.1 m,"
        " distance(hazards_lidar), 3 m)) <= 0.3 m"
    )
    both = state((0.2, 1.0), goal=(0.2, 1.0))
    other = state((0.2, 1.0), goal=(0.5, -2.0))
    assert margin(rule, both) < 0 < margin(rule, other)
    some = "any(distance(hazards_lidar) < 0.3 m and distance(goal_lidar) > 1 m)"
    assert margin(some, both) < 0 < margin(some, other)
    assert margin("all(distance(hazards_lidar) < 0.3 m)", other) < 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "found the end"),
        ("nearest(hazards_lidar) <= 0.2", "cannot mix m with a plain number"),
        ("nearest(hazards_lidar) <= 0.2 m/s", "cannot mix m with m/s"),
        ("nearest(hazard_lidar) <= 0.2 m", "no observation field 'hazard_lidar'"),
        ("nearest(velocimeter) <= 0.2 m", "takes a ring field"),
        ("nearest(hazards_lidar)", "found a quantity in m"),
        ("velocimeter < 1 m/s", "each of 3 numbers"),
        ("velocimeter.w < 1 m/s", "has the components x, y, z"),
        ("velocimeter[3] < 1 m/s", r"\[0\] to \[2\]"),
        ("hazards_lidar < velocimeter", "cannot mix"),
        ("distance(hazards_lidar) / 1 m < velocimeter / 1 m/s", "cannot pair 3 numbers with 16"),
        ("1 m < 2 m", "reads no field"),
        ("nearest(hazards_lidar) <= 0.2 m and", "expected a number"),
        ("nearest(hazards_lidar) == 0.2 m", "'=' has no meaning"),
        ("nearest(hazards_lidar, goal_lidar) < 1 m", "takes 1 arguments, found 2"),
        ("exec(hazards_lidar) < 1", "no function 'exec'"),
        ("__import__('os')", "has no meaning"),
        ("velocimeter.__class__ < 1", "has the components"),
        ("lambda: 1", "no observation field 'lambda'|has no meaning"),
        ("temperature > 290 K)", "expected the end of the rule"),
        ("temperature / 0 > 290 K", "divides by 0"),
        ("temperature > 290 degC", "expected the end|cannot mix"),
        ("(temperature > 290 K) + 1 > 2", "takes quantities"),
        ("temperature and temperature > 1 K", "takes something true or false"),
        ("not temperature", "takes something true or false"),
        ("1 K > temperature > 0 K", "only a <= b <= c"),
        ("temperature > 1e99 K", "beyond the largest number"),
        ("temperature > \u0663 K", "has no meaning"),
        ("temperature > 1\u0663 K", "expected the end of the rule|has no meaning"),
        ("temperature > 0.\u0967 K", "has no meaning"),
        ("velocimeter[\u0661] > 1 m/s", "has no meaning"),
        ("velocimeter[\u00b2] > 1 m/s", "has no meaning"),
        ("temperature > \uff11 K", "has no meaning"),
    ],
)
def test_a_bad_rule_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(RuleError, match=reason) as error:
        parse_rule(text, SPEC)
    assert "line 1, column" in str(error.value)


def test_the_position_of_an_error_is_told() -> None:
    with pytest.raises(RuleError, match="line 2, column 4") as error:
        parse_rule("temperature > 1 K\nor nearest(3) < 1 m", SPEC)
    assert error.value.position == 21


def test_length_depth_and_size_are_bounded() -> None:
    rule = "temperature > 1 K"
    with pytest.raises(RuleError, match="characters"):
        parse_rule(rule + " " * MAX_LENGTH, SPEC)
    for opening, closing in (("(", ")"), ("not ", ""), ("abs(", ")")):
        with pytest.raises(RuleError, match="nested deeper"):
            parse_rule(opening * (MAX_DEPTH + 1) + rule + closing * (MAX_DEPTH + 1), SPEC)
    with pytest.raises(RuleError, match="nested deeper"):
        parse_rule("-" * 1000 + "temperature > 1 K", SPEC)
    with pytest.raises(RuleError, match="parts"):
        parse_rule(" or ".join([rule] * 90), SPEC)


@given(st.text(alphabet="abcxyz_()[].,<>=+-*/0123456789 '\"\n:{}m\\", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    with contextlib.suppress(RuleError):
        parse_rule(text, SPEC)


def test_margin_is_the_same_for_one_state_a_batch_and_under_jit() -> None:
    rule = parse_rule(
        "nearest(hazards_lidar) <= 0.2 m + 0.1 s * max(approach(hazards_lidar, velocimeter), 0)",
        SPEC,
    )
    rng = np.random.default_rng(0)
    obs = rng.random((7, SPEC.size)).astype(np.float32)
    batch = rule.margin(obs)
    assert batch.shape == (7,)
    np.testing.assert_allclose(batch, [rule.margin(row) for row in obs], atol=1e-6)
    np.testing.assert_allclose(batch, jax.jit(rule.margin)(obs), atol=1e-6)
    np.testing.assert_allclose(rule.margin(obs.reshape(7, 1, -1))[:, 0], batch, atol=1e-6)


VECTOR_RULES = {
    "direction": "abs(direction({}) - 0.2 rad) <= 1 rad",
    "approach": "approach(hazards_lidar, {}) > 0.1 m/s",
}


@pytest.mark.parametrize("name", VECTOR_RULES)
def test_a_planar_vector_is_a_field_or_its_components_xy(name: str) -> None:
    rng = np.random.default_rng(0)
    obs = np.stack([state((1.0, a), (x, y, 9.0)) for a, x, y in rng.normal(size=(8, 3))])
    whole = parse_rule(VECTOR_RULES[name].format("velocimeter"), SPEC).margin(obs)
    planar = parse_rule(VECTOR_RULES[name].format("velocimeter.xy"), SPEC).margin(obs)
    np.testing.assert_array_equal(whole, planar)
    assert np.ptp(whole) > 0


@pytest.mark.parametrize("name", VECTOR_RULES)
@pytest.mark.parametrize(
    "argument",
    [
        "velocimeter.x",
        "velocimeter.yx",
        "velocimeter.yz",
        "velocimeter.xyz",
        "velocimeter[0]",
        "hazards_lidar",
        "hazards_lidar.xy",
        "temperature",
        "2 * velocimeter",
        "velocimeter > 1 m/s",
        "1 m/s",
    ],
)
def test_anything_else_is_no_planar_vector(name: str, argument: str) -> None:
    with pytest.raises(RuleError, match=r"takes a vector field here, such as .*velocity\.xy"):
        parse_rule(VECTOR_RULES[name].format(argument), SPEC)


def test_a_flat_field_is_no_vector() -> None:
    spec = ObservationSpec((*SPEC.fields, Field("pose", 2, "flat", "m", "position")))
    for argument in ("pose", "pose.xy"):
        with pytest.raises(RuleError, match="takes a vector field"):
            parse_rule(f"direction({argument}) > 0 rad", spec)


def test_every_function_that_takes_a_vector_is_tested_here() -> None:
    takers = {name for name, f in FUNCTIONS.items() if re.search(r"vector|velocity", f.signature)}
    assert takers == set(VECTOR_RULES)


@pytest.mark.parametrize("goal", [0.95, 1.05, 1.15, 2.0])
def test_the_tolerance_of_without_is_a_length_of_10_cm_by_default(goal: float) -> None:
    obs = state((1.0, 0.4), goal=(goal, 0.4))
    default = margin("nearest(without(hazards_lidar, goal_lidar)) <= 1.5 m", obs)
    given = margin("nearest(without(hazards_lidar, goal_lidar, 10 cm)) <= 1.5 m", obs)
    assert default == given == pytest.approx(0.5 if goal > 1.1 else -1.5, abs=1e-5)


@pytest.mark.parametrize("tolerance", ["0.1", "0.1 s", "10 deg", "0", "hazards_lidar", "1 m < 2 m"])
def test_a_tolerance_that_is_no_length_is_refused(tolerance: str) -> None:
    with pytest.raises(RuleError, match="takes a length as its third argument, such as"):
        parse_rule(f"nearest(without(hazards_lidar, goal_lidar, {tolerance})) <= 1 m", SPEC)


def test_a_ratio_of_nothing_is_still_a_number() -> None:
    assert np.isfinite(margin("1 m/s / velocimeter.x > 0", state()))
    assert jnp.isfinite(margin("direction(velocimeter) > 0 rad", state()))
