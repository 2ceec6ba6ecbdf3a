"""Rules that tell no states apart are refused; rules that contradict safe logs are reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task
from proco_jax.knowledge.files import KnowledgeError, load_knowledge, write_table
from proco_jax.knowledge.grounding import Grounding, check_knowledge, ground
from proco_jax.knowledge.llm_client import ModelError
from proco_jax.knowledge.replay import Answer, completion, serve
from proco_jax.knowledge.rule_checks import (
    LoggedStates,
    UnsafeShares,
    contradiction,
    unsafe_shares,
    vacuous,
)
from proco_jax.observation import Field, ObservationSpec
from proco_jax.rules.rule import parse_rule

SPEC = ObservationSpec(
    (
        Field("velocity", 2, "vector", "m/s", "velocity"),
        Field("holes_lidar", 16, "ring", "closeness in [0, 1]", "holes in the floor", reach=3.0),
        Field("load", 1, "flat", "kg", "load"),
    )
)
GOOD = "nearest(holes_lidar) <= 0.5 m"


def states(count: int = 500, nearest: float = 0.6) -> np.ndarray:
    """Random states, none closer to a hole than `nearest` meters."""
    rng = np.random.default_rng(0)
    obs = np.zeros((count, SPEC.size), np.float32)
    obs[:, :2] = rng.normal(size=(count, 2))
    distance = rng.uniform(nearest, 2.9, count)
    obs[np.arange(count), 2 + rng.integers(16, size=count)] = 1 - distance / 3
    obs[:, -1] = 5 + rng.normal(size=count)
    return obs


NO_STATE = [
    "nearest(holes_lidar) < 0 m",
    "norm(velocity) > 100 km/s",
    "load < 5 kg and load > 6 kg",
    "nearest(holes_lidar) <= 0.5 m and nearest(holes_lidar) > 1 m",
]
EVERY_STATE = [
    "nearest(holes_lidar) >= 0 m",
    "nearest(holes_lidar) <= 50 m",
    "norm(velocity) < 1000 m/s",
    "load > 5 kg or load < 6 kg",
    "not nearest(holes_lidar) < 0 m",
]
USEFUL = [
    GOOD,
    "nearest(holes_lidar) <= 5 cm",
    "norm(velocity.xy) > 4 m/s",
    "load > 10 kg",
    "nearest(holes_lidar) <= 0.5 m or load > 10 kg",
    "approach(holes_lidar, velocity) > 0.5 m/s and nearest(holes_lidar) <= 1 m",
]


@pytest.mark.parametrize("text", NO_STATE)
def test_a_rule_true_of_no_state_says_nothing(text: str) -> None:
    reason = vacuous(unsafe_shares(parse_rule(text, SPEC), states(), SPEC))
    assert reason is not None and "calls no state unsafe" in reason


@pytest.mark.parametrize("text", EVERY_STATE)
def test_a_rule_true_of_every_state_says_nothing(text: str) -> None:
    reason = vacuous(unsafe_shares(parse_rule(text, SPEC), states(), SPEC))
    assert reason is not None and "calls every state unsafe" in reason


@pytest.mark.parametrize("text", USEFUL)
def test_a_rule_that_safe_logs_never_meet_is_kept(text: str) -> None:
    shares = unsafe_shares(parse_rule(text, SPEC), states(), SPEC)
    assert vacuous(shares) is None and shares.varied > 0


def test_shares_worked_by_hand() -> None:
    obs = states(4)
    obs[:, -1] = [1.0, 2.0, 3.0, 4.0]
    assert unsafe_shares(parse_rule("load > 3.5 kg", SPEC), obs, SPEC).logged == 0.25
    assert vacuous(UnsafeShares(0.0, 0.0)) and vacuous(UnsafeShares(0.0, 1e-3)) is None
    assert vacuous(UnsafeShares(1.0, 0.5)) and vacuous(UnsafeShares(0.5, 1.0))
    assert vacuous(UnsafeShares(0.99, 0.5)) is None


def test_a_refusal_names_what_was_found_and_what_was_expected() -> None:
    none, every = vacuous(UnsafeShares(0.0, 7e-5)), vacuous(UnsafeShares(0.5, 0.9995))
    assert none is not None and every is not None
    assert "true of 0.00% of the logged states and 0.01% of varied copies" in none
    assert "expected at least 0.01% of either" in none
    assert "expected at most 99.9% of both" in every


def test_only_large_shares_of_safe_logs_contradict_them() -> None:
    rules = [parse_rule(text, SPEC) for text in (GOOD, "load > 5 kg")]
    assert contradiction(rules, [UnsafeShares(0.15, 1.0), UnsafeShares(0.0, 0.3)]) is None
    found = contradiction(rules, [UnsafeShares(0.01, 1.0), UnsafeShares(0.4, 0.3)])
    assert found is not None and "40.0% (load > 5 kg)" in found and GOOD not in found


def config_with(tmp_path: Path, rule: str = "", **settings: Any) -> Config:
    section = f"## Rule\n\n```rule\n{rule}\n```\n\n## Provenance\n\nThe owner.\n" if rule else ""
    file = tmp_path / "robot.md"
    fields = f"## Observation\n\n{write_table(SPEC)}\n"
    file.write_text(f"# Robot\n\n## What is unsafe\n\nHoles.\n\n{fields}\n{section}")
    config = Config()
    for name, value in ({"file": str(file)} | settings).items():
        setattr(config.knowledge, name, value)
    return config


def ground_with(
    tmp_path: Path, rule: str = "", logged: LoggedStates | None = None, **settings: Any
) -> tuple[Grounding, list[str]]:
    config, lines = config_with(tmp_path, rule, **settings), []
    return ground(config, SPEC, tmp_path / "run", lines.append, logged), lines


@pytest.mark.parametrize("rule", [NO_STATE[0], EVERY_STATE[0]])
def test_a_rule_of_a_file_that_says_nothing_is_an_error(tmp_path: Path, rule: str) -> None:
    with pytest.raises(KnowledgeError, match=r"'Robot': the rule is true of .* state unsafe"):
        ground_with(tmp_path, rule, LoggedStates(states(), safe=False))
    assert ground_with(tmp_path, rule)[0].rules


@pytest.mark.parametrize(("safe", "warnings"), [(True, 1), (False, 0)])
def test_a_rule_that_contradicts_safe_logs_is_reported(
    tmp_path: Path, safe: bool, warnings: int
) -> None:
    rule = "nearest(holes_lidar) <= 2 m"
    grounding, lines = ground_with(tmp_path, rule, LoggedStates(states(), safe))
    assert len(grounding.rules) == 1
    found = [line for line in lines if "contradict the logs" in line]
    assert len(found) == warnings and grounding.warning == "".join(found)
    (share,) = grounding.shares
    assert 0.5 < share.logged < 0.7


@pytest.mark.parametrize("robot", ["Ant", "HalfCheetah", "Hopper", "Swimmer", "Walker2d"])
def test_a_limit_on_speed_that_slow_logs_never_reach_is_kept(robot: str) -> None:
    task = get_task(f"{robot}Velocity")
    rng = np.random.default_rng(0)
    # Random actions reach about a fifth of the limit.
    obs = rng.normal(size=(400, task.spec.size)) * 0.1 * task.velocity_limit
    rule = load_knowledge(task.name, task.spec).rule
    assert rule is not None
    shares = unsafe_shares(rule, obs, task.spec)
    assert shares.logged == 0 and shares.varied > 0.01 and vacuous(shares) is None


def test_a_rule_that_agrees_with_safe_logs_is_not_reported(tmp_path: Path) -> None:
    assert ground_with(tmp_path, GOOD, LoggedStates(states(), safe=True))[1] == []


@pytest.mark.parametrize("rule", [NO_STATE[1], EVERY_STATE[1]])
def test_a_model_is_asked_again_for_a_rule_that_says_something(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    asked: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> Answer:
        asked.append(request)
        return completion(json.dumps({"rule": rule if len(asked) == 1 else GOOD}))

    logged = LoggedStates(states(), safe=True)
    with serve(answer) as address:
        model = {"model": "openai/test", "api_base": address, "votes": 1}
        grounding, _ = ground_with(tmp_path, "", logged, **model)
    assert [r.text for r in grounding.rules] == [GOOD] and len(asked) == 2
    assert "state unsafe; check its numbers" in asked[1]["messages"][-1]["content"]


def test_a_model_that_insists_on_a_rule_that_says_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    reply = completion(json.dumps({"rule": NO_STATE[0]}))
    with (
        serve(lambda request: reply) as address,
        pytest.raises(ModelError, match="no state unsafe"),
    ):
        model = {"model": "openai/test", "api_base": address, "votes": 1}
        ground_with(tmp_path, "", LoggedStates(states(), safe=True), **model)


@pytest.mark.parametrize("model", ["shipped", "recorded"])
def test_shipped_rules_say_something_of_states_far_from_any_hazard(
    tmp_path: Path, model: str
) -> None:
    spec = get_task("PointGoal1").spec
    obs = np.zeros((300, spec.size), np.float32)
    obs[:, spec.slices["hazards_lidar"].start] = np.linspace(0.1, 0.8, 300)
    config = Config(task="SafetyPointGoal1")
    config.knowledge.model = model
    lines: list[str] = []
    grounding = ground(config, spec, tmp_path, lines.append, LoggedStates(obs, safe=True))
    assert grounding.rules and not [line for line in lines if "contradict" in line]


MODEL = {"model": "openai/test", "api_base": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("rule", "settings", "reason"),
    [
        ("nearest(holes_lidar) <= 0.5", {}, "cannot mix m with a plain number"),
        ("", {}, "'Robot' holds no rule"),
        ("", {"file": "missing.md"}, "cannot read the knowledge file"),
        ("", {"model": "recorded"}, "no replies are recorded for 'Robot'"),
        ("", {"model": "nonsense"}, "no litellm model name"),
        ("", {"model": "openai/test"}, "needs the environment variable OPENAI_API_KEY"),
        ("", MODEL | {"votes": 3, "budget_calls": 2}, "3 calls are needed"),
    ],
)
@pytest.mark.parametrize("spec", [SPEC, None])
def test_wrong_knowledge_is_told_before_there_are_logs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    settings: dict[str, Any],
    reason: str,
    spec: ObservationSpec | None,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=reason):
        check_knowledge(config_with(tmp_path, rule, **settings), spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_right_knowledge_passes_and_asks_nobody(tmp_path: Path) -> None:
    for rule, settings in ((GOOD, {}), ("", MODEL), ("", MODEL | {"labeler": "states"})):
        check_knowledge(config_with(tmp_path, rule, **settings), SPEC, tmp_path / "run")
    # Whether a rule tells states apart only logs can show.
    check_knowledge(config_with(tmp_path, EVERY_STATE[0]), SPEC, tmp_path / "run")
    assert not (tmp_path / "run").exists()
