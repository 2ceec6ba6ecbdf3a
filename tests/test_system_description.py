"""Descriptions of systems of the user's own: what they say, and how errors are told."""

import numpy as np
import pytest
from system_toys import PUMP, pump, replaced_once

from proco_jax.config.schema import Config, SystemConfig
from proco_jax.config.validation import validate
from proco_jax.knowledge.files import KnowledgeError, load_knowledge
from proco_jax.knowledge.grounding import questions_shown
from proco_jax.knowledge.labelers import rule_labeler
from proco_jax.knowledge.state_descriptions import describe
from proco_jax.knowledge.state_variation import varied_fields, vary_states
from proco_jax.rules.syntax import RuleError
from proco_jax.system.description import load_system, parse_system, system_of, task_of, with_system


def test_a_description_says_all_that_a_run_must_know() -> None:
    system = pump()
    assert (system.name, system.episode_steps, system.cost_limit) == ("Pump", 20, 2.0)
    assert (system.step_s, system.margin, system.of_step) == (1.0, 0.5, False)
    assert system.observed() == ["pressure", "flow_0", "flow_1"]
    assert not system.observation.rings and system.observation.size == 3
    assert system.column("speed") == "Speed (1/min)" and system.column("valve") == "valve"
    assert system.knowledge.rule is not None and system.knowledge.rule.unit == "bar"
    task = system.task()
    assert (task.name, task.action_size, task.spec.size) == ("Pump", 2, 3)


def test_limits_are_minus_one_and_one_inside() -> None:
    system = pump()
    physical = np.array([[0.0, 100.0], [3000.0, 0.0], [750.0, 50.0]])
    scaled = system.scale(physical)
    np.testing.assert_allclose(scaled, [[-1, 1], [1, -1], [-0.5, 0]])
    np.testing.assert_allclose(system.unscale(scaled), physical)


def test_a_step_is_in_seconds_and_a_margin_in_the_unit_of_the_rule() -> None:
    assert pump(**{"1 s": "2 min"}).step_s == 120.0
    assert pump(**{"| margin | 0.5 bar |\n": ""}).margin is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## System", "## Other", "section '## System' is missing"),
        ("| step | 1 s |\n", "", "'step' is missing"),
        ("1 s", "1 m", "expected a number in s"),
        ("1 s", "soon", "step"),
        ("0.5 bar |", "0.5 m |", "expected a number in bar"),
        ("| 20 |", "| 0 |", "episode steps: found '0'"),
        ("cost limit | 2", "cost limit | none", "cost limit: found 'none'"),
        ("| 0 | 3000 |", "| 3000 | 0 |", "speed needs a low below its high"),
        ("| 0 | 3000 |", "| | 3000 |", "speed: found '', expected a number"),
        ("| valve |", "| flow_0 |", "flow_0: fields, actions"),
        ("| speed | Speed", "| sped | Speed", "no name 'sped'"),
        ("| setting | value |", "| setting | worth |", "columns setting, value"),
        ("| margin |", "| margins |", "no setting 'margins'"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(KnowledgeError, match=message):
        parse_system(replaced_once(PUMP, old, new))


def test_a_reward_is_a_number_in_the_language_of_rules() -> None:
    section = "\n## Reward\n\n```\nflow[0] - 2 * flow[1]\n```\n"
    reward = parse_system(PUMP + section).reward
    assert reward is not None and reward.unit == "m/s"
    assert float(reward.value(np.array([5.0, 3.0, 0.5]))) == 2.0
    for wrong in ("flow[0] > 1 m/s", "flow", "1 + 1"):
        with pytest.raises(RuleError, match="expected one number"):
            parse_system(PUMP + section.replace("flow[0] - 2 * flow[1]", wrong))


def test_a_description_is_a_knowledge_file_too(tmp_path) -> None:
    path = tmp_path / "pump.md"
    path.write_text(PUMP)
    knowledge = load_knowledge(path)
    assert knowledge.name == "Pump" and knowledge.spec == load_system(path).observation


def test_the_description_decides_what_the_config_leaves_open(tmp_path) -> None:
    path = tmp_path / "pump.md"
    path.write_text(PUMP)
    config = Config(system=SystemConfig(file=str(path)))
    config.data.source = "csv:logs.csv"
    resolved = with_system(config)
    assert (resolved.task, resolved.cost_limit, resolved.cost.margin) == ("Pump", 2.0, 0.5)
    assert with_system(resolved) == resolved
    assert task_of(resolved).name == "Pump"
    config.cost_limit = 5.0
    assert with_system(config).cost_limit == 5.0
    plain = Config()
    assert with_system(plain) is plain and system_of(plain) is None


def test_a_missing_description_is_told_with_the_command_that_drafts_one() -> None:
    with pytest.raises(KnowledgeError, match=r"no\.md.*python -m proco_jax\.describe"):
        load_system("no.md")


@pytest.mark.parametrize(
    ("file", "source", "env", "message"),
    [
        ("pump.md", "collect", "", "expected csv:, parquet:, minari: or dsrl: logs"),
        ("", "csv:logs.csv", "", "or a description of your own system"),
        ("", "collect", "CartPole-v1", "expected a description of the environment's system"),
    ],
)
def test_sources_and_environments_must_go_with_the_system(file, source, env, message) -> None:
    config = Config(system=SystemConfig(file, env))
    config.data.source = source
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_states_without_rings_and_vectors_can_be_varied_and_described() -> None:
    spec = pump().observation
    obs = np.array([[2.0, 1.0, 0.5], [6.0, 2.0, 0.5]], np.float32)
    varied = vary_states(obs, spec, ("pressure",), 2000, seed=0)
    # Pressures up to twice the logged ones, so that the rule is true of some.
    unsafe = np.asarray(pump().knowledge.rule.unsafe(varied))  # pyright: ignore
    assert 0.02 < unsafe.mean() < 0.6 and varied.shape == (2000, 3)
    assert np.isin(varied[:, 1], (1.0, 2.0)).all()
    assert varied_fields(spec) == ("pressure", "flow")
    assert describe(obs[0], spec) == "- pressure: 2.00 bar\n- flow: 1.00, 0.50 m/s"


@pytest.mark.parametrize("labeler", ["rule", "states"])
def test_the_questions_to_a_language_model_name_the_fields_and_the_words(labeler) -> None:
    config = Config()
    config.knowledge.labeler = labeler
    config.cost.margin = 0.5
    (messages,) = questions_shown(config, pump().knowledge, np.ones((2, 3)))
    text = messages[-1]["content"]
    assert "The pressure must stay below 8 bar." in text and "- pressure (one number; bar)" in text
    if labeler == "states":
        assert "pressure: 1.00 bar" in text and "0.5 in the constraint's own" in text


def test_a_rule_labels_states_with_the_margin_of_the_description() -> None:
    rule = pump().knowledge.rule
    assert rule is not None
    labels = rule_labeler([rule], 0.5)(np.array([[7.4, 0, 0], [7.6, 0, 0], [8.1, 0, 0]]))
    assert labels.unsafe.tolist() == [0, 1, 1]
    np.testing.assert_allclose(labels.margin, [-0.6, -0.4, 0.1], atol=1e-5)
