"""Recorded replies of a language model ground every shipped task offline."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proco_jax.config.schema import Config
from proco_jax.envs.tasks import TASKS, get_task
from proco_jax.knowledge import recorded
from proco_jax.knowledge.files import KnowledgeError, load_knowledge
from proco_jax.knowledge.grounding import CACHE_NAME, Grounding, ground
from proco_jax.knowledge.llm_client import ModelError
from proco_jax.knowledge.prompts import PROMPT_VERSION
from proco_jax.rules.rule import parse_rule

GOAL = "SafetyPointGoal1"


def config_for(task: str, **settings: Any) -> Config:
    config = Config(task=task)
    for name, value in ({"model": "recorded"} | settings).items():
        setattr(config.knowledge, name, value)
    return config


def ground_recorded(workdir: Path, task: str = GOAL, **settings: Any) -> Grounding:
    spec = get_task(task).spec
    return ground(config_for(task, **settings), spec, workdir, lambda line: None)


@pytest.fixture
def shipped_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the record of one task, which a test may damage; the path of the file."""
    source = recorded.shipped_experiments() / "knowledge" / recorded.RECORDED_FILE
    line = next(x for x in source.read_text().splitlines() if json.loads(x)["task"] == GOAL)
    copy = tmp_path / "experiments" / "knowledge" / recorded.RECORDED_FILE
    copy.parent.mkdir(parents=True)
    copy.write_text(line + "\n")
    monkeypatch.setattr(recorded, "shipped_experiments", lambda: tmp_path / "experiments")
    return copy


@pytest.mark.parametrize("task", TASKS)
def test_all_recorded_votes_of_every_task_are_usable_rules(task: str, tmp_path: Path) -> None:
    grounding = ground_recorded(tmp_path, task)
    assert len(grounding.rules) == 3 and grounding.model == "recorded"
    by_hand = load_knowledge(task, TASKS[task].spec).rule
    assert by_hand is not None
    for rule in grounding.rules:
        assert rule.unit == by_hand.unit and rule.fields == by_hand.fields


@pytest.mark.parametrize(
    ("settings", "model"),
    [({}, "recorded"), ({"votes": 1}, "recorded"), ({"votes": 4}, "shipped")],
)
def test_offline_takes_recorded_replies_where_there_are_enough(
    tmp_path: Path, settings: dict[str, Any], model: str
) -> None:
    assert Config().knowledge.model == "offline"
    assert ground_recorded(tmp_path, model="offline", **settings).model == model


def test_offline_takes_the_rule_of_a_file_of_ones_own(tmp_path: Path) -> None:
    text = (recorded.shipped_experiments() / "knowledge" / f"{GOAL}.md").read_text()
    path = tmp_path / "own.md"
    for old, new in (
        (f"# {GOAL}", "# Mine"),
        ("within 0.2 m of", "within 0.3 m of"),
        ("<= 0.2 m", "<= 0.3 m"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        found = ground_recorded(tmp_path, model="offline", file=str(path))
        assert found.model == "shipped" and len(found.rules) == 1
    path.write_text(text)
    assert ground_recorded(tmp_path, model="offline", file=str(path)).model == "recorded"


def test_a_recorded_rule_labels_as_it_says(tmp_path: Path) -> None:
    spec = get_task(GOAL).spec
    obs = np.zeros((2, spec.size), np.float32)
    obs[:, spec.slices["hazards_lidar"].start] = [1 - 0.15 / 3, 1 - 0.4 / 3]
    np.testing.assert_array_equal(ground_recorded(tmp_path).label(obs).unsafe, [1.0, 0.0])


def test_recorded_replies_cost_nothing_and_are_cached_with_their_prompt(tmp_path: Path) -> None:
    grounding = ground_recorded(tmp_path, budget_calls=0, budget_usd=0.0)
    assert grounding.usage().calls == 0 and grounding.usage().cached == 3
    lines = [json.loads(line) for line in (tmp_path / CACHE_NAME).read_text().splitlines()]
    assert [line["vote"] for line in lines] == [0, 1, 2]
    assert {line["prompt_version"] for line in lines} == {"1"} and PROMPT_VERSION != "1"
    assert "<knowledge>" in lines[0]["messages"][1]["content"]
    assert "version 1 of the prompt" in grounding.provenance
    ground_recorded(tmp_path)
    assert len((tmp_path / CACHE_NAME).read_text().splitlines()) == 3


def test_fewer_votes_take_the_first_replies(tmp_path: Path) -> None:
    all_rules = ground_recorded(tmp_path, "SafetyCarButton1").rules
    one = ground_recorded(tmp_path / "one", "SafetyCarButton1", votes=1).rules
    assert one == all_rules[:1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"votes": 4}, "3 replies are recorded, found --config.knowledge.votes=4"),
        ({"labeler": "states"}, "the recorded replies are rules"),
        ({"text": "Hazards are harmless."}, "answer a different knowledge text"),
    ],
)
def test_what_was_not_recorded_is_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(KnowledgeError, match=reason):
        ground_recorded(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_an_unknown_task_and_changed_fields_are_refused() -> None:
    knowledge = load_knowledge(GOAL)
    with pytest.raises(KnowledgeError, match="no replies are recorded for 'Cart'"):
        recorded.recorded_replies(dataclasses.replace(knowledge, name="Cart"))
    other = load_knowledge("SafetyPointPush1").spec
    with pytest.raises(KnowledgeError, match="answer a different fields"):
        recorded.recorded_replies(dataclasses.replace(knowledge, spec=other))


def test_a_recorded_reply_that_is_refused_does_not_vote(
    tmp_path: Path, shipped_elsewhere: Path
) -> None:
    record = json.loads(shipped_elsewhere.read_text())
    record["replies"][1] = '{"rule": "nearest(hazards_lidar) <= 0.2"}'
    shipped_elsewhere.write_text(json.dumps(record) + "\n")
    assert len(ground_recorded(tmp_path / "run").rules) == 2
    record["replies"] = ["I would rather not."] * 3
    shipped_elsewhere.write_text(json.dumps(record) + "\n")
    with pytest.raises(ModelError, match="'recorded' gave no usable rule in 3 votes"):
        ground_recorded(tmp_path / "run")


@pytest.mark.parametrize("text", ["{broken", "[]\n", '{"task": "SafetyPointGoal1"}\n', "3\n"])
def test_a_damaged_record_is_named(tmp_path: Path, shipped_elsewhere: Path, text: str) -> None:
    shipped_elsewhere.write_text(text)
    with pytest.raises(KnowledgeError, match=r"cannot read the recorded replies in .*jsonl"):
        ground_recorded(tmp_path / "run")


def test_recorded_rules_follow_the_language_of_today() -> None:
    found = recorded.recorded_replies(load_knowledge("SafetyCarCircle1"))
    rules = [json.loads(reply)["rule"] for reply in found.replies]
    assert any("direction(magnetometer.xy)" in rule for rule in rules)
    spec = get_task("SafetyCarCircle1").spec
    for rule in rules:
        parse_rule(rule, spec)
