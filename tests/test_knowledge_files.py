from pathlib import Path

import numpy as np
import pytest

from proco_jax.common.shipped import shipped_experiments
from proco_jax.envs.tasks import TASKS, get_task
from proco_jax.knowledge.files import (
    KnowledgeError,
    load_knowledge,
    parse_knowledge,
    read_table,
    write_table,
)
from proco_jax.knowledge.labelers import rule_labeler, shipped_rule
from proco_jax.knowledge.rule_accuracy import check_task
from proco_jax.observation import Field, ObservationSpec
from proco_jax.rules.rule import one_unit, parse_rule

SPEC = ObservationSpec(
    (
        Field("speed", 2, "vector", "m/s", "speed | of the cart"),
        Field("radar", 8, "ring", "closeness in [0, 1]", "people around", reach=10.0),
        Field("load", 1, "flat", "kPa", "pressure on the fork"),
    )
)
TEXT = f"""# Cart

## What is unsafe

The cart must keep 2 m from people.

## Observation

{write_table(SPEC)}

## Rule

```rule
nearest(radar) <= 2 m or load > 5 kPa
```

## Provenance

Written by its owner.
"""


@pytest.mark.parametrize("name", TASKS)
def test_knowledge_of_every_task_is_shipped_and_fits_its_table(name: str) -> None:
    task = TASKS[name]
    knowledge = load_knowledge(name, task.spec)
    assert knowledge.name == name
    assert (
        write_table(task.spec) in (shipped_experiments() / "knowledge" / f"{name}.md").read_text()
    )
    assert "by hand" in knowledge.provenance
    rule = shipped_rule(knowledge)
    assert rule.unit == ("m/s" if task.kind == "Velocity" else "m")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["PointGoal1", "CarPush1", "PointCircle2"])
def test_exact_rules_agree_with_the_simulator(name: str) -> None:
    (found,) = check_task(get_task(name), 2, margin=0.05, seed=1)
    assert found.steps == 2 * get_task(name).episode_steps
    # A car that tilts by a hair reads distances a millimeter off.
    assert found.recall is None or found.recall > 0.98
    assert found.precision is None or found.precision > 0.98
    assert found.wide_recall is None or found.wide_recall > 0.999


@pytest.mark.slow
def test_circle_walls_are_found_from_lidar_and_compass() -> None:
    task = get_task("CarCircle2")
    rule = shipped_rule(load_knowledge(task.name, task.spec))
    obs = np.zeros((1, task.spec.size), np.float32)
    for x, y, heading in ((1.2, 0.3, 0.4), (-0.2, -1.5, 2.0), (1.0, 0.9, -1.0)):
        angle = np.arctan2(-y, -x) - heading
        where = (angle % (2 * np.pi)) / (2 * np.pi) * 16
        i, alias, near = int(where), where % 1, 1 - np.hypot(x, y) / 6
        ring = np.zeros(16)
        ring[i], ring[(i + 1) % 16], ring[i - 1] = near, alias * near, (1 - alias) * near
        obs[0, task.spec.slices["circle_lidar"]] = ring
        compass = [-0.5 * np.sin(heading), -0.5 * np.cos(heading), 0.0]
        obs[0, task.spec.slices["magnetometer"]] = compass
        expected = max(abs(x), abs(y)) - 1.125
        assert float(rule.margin(obs)[0]) == pytest.approx(expected, abs=1e-4)


def test_own_data_bring_their_own_fields() -> None:
    knowledge = parse_knowledge(TEXT)
    assert [f.name for f in knowledge.spec.fields] == ["speed", "radar", "load"]
    assert knowledge.spec.field("radar").reach == 10.0
    assert knowledge.spec.field("speed").meaning == "speed | of the cart"
    obs = np.zeros((2, SPEC.size), np.float32)
    obs[1, -1] = 6.0
    labels = rule_labeler([shipped_rule(knowledge)], 0.0)(obs)
    np.testing.assert_array_equal(labels.unsafe, [0.0, 1.0])


def test_a_table_reads_back_as_written() -> None:
    again = read_table(write_table(SPEC))
    assert again.fields == SPEC.fields


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("# Cart\n", "\n", "heading with a name"),
        (
            "## What is unsafe\n\nThe cart must keep 2 m from people.\n",
            "",
            "What is unsafe.* missing",
        ),
        ("## Provenance\n\nWritten by its owner.\n", "", "needs a section '## Provenance'"),
        ("## Provenance", "## Origin", "unknown section '## Origin'"),
        ("```rule\n", "", "needs one code block, found 0"),
        ("2 m or", "2 s or", "cannot mix m with s"),
        ("| ring |", "| circle |", "kind is ring, vector or flat"),
        ("| 10 m |", "| far |", "the reach is in meters"),
        ("| load | 1 |", "| load | one |", "size is a whole number"),
        ("| load | 1 |", "| load | \u0661 |", "size is a whole number"),
        ("| load | 1 |", "| load | \u00b2 |", "size is a whole number"),
        ("| load | 1 |", f"| load | {'9' * 5000} |", "size is a whole number"),
        ("| load |", "| speed |", "distinct names"),
        ("| field | size |", "| field |", "needs a table with columns"),
        ("## Rule", "## Observation", "stands twice"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match=reason):
        parse_knowledge(TEXT.replace(old, new))


def test_fields_must_be_those_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "cart.md"
    path.write_text(TEXT)
    data = ObservationSpec((*SPEC.fields[:2], Field("weight", 1, "flat", "kg", "load")))
    with pytest.raises(KnowledgeError, match=r"cart\.md: the fields are not those of the data"):
        load_knowledge(path, data)
    assert load_knowledge(path, SPEC).rule == parse_rule(
        "nearest(radar) <= 2 m or load > 5 kPa", SPEC
    )


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="no knowledge is shipped for 'MyTask'"):
        load_knowledge("MyTask")
    with pytest.raises(KnowledgeError, match="cannot read"):
        load_knowledge(tmp_path / "none.md")


def test_a_file_without_a_rule_has_no_shipped_grounding() -> None:
    start, end = TEXT.index("## Rule"), TEXT.index("## Provenance")
    knowledge = parse_knowledge(TEXT[:start] + TEXT[end:])
    with pytest.raises(KnowledgeError, match="holds no rule"):
        shipped_rule(knowledge)


def test_rules_vote_and_what_cannot_be_told_is_unsafe() -> None:
    rules = [parse_rule(f"load > {limit} kPa", SPEC) for limit in (1, 2, 3)]
    obs = np.zeros((3, SPEC.size), np.float32)
    obs[:, -1] = [0.5, 2.5, np.nan]
    labels = rule_labeler(rules, 0.2)(obs)
    np.testing.assert_allclose(labels.unsafe, [0.0, 2 / 3, 1.0], atol=1e-6)
    np.testing.assert_allclose(labels.confidence, [1.0, 2 / 3, 1.0], atol=1e-6)
    np.testing.assert_allclose(labels.margin[:2], [-0.5, 1.5], atol=1e-6)


def test_a_rule_of_several_units_has_a_margin_but_no_common_unit() -> None:
    mixed = parse_rule("load > 1 kPa or nearest(radar) <= 2 m", SPEC)
    assert mixed.unit == parse_rule(f"not ({mixed.text})", SPEC).unit == "several units"
    plain, length = (parse_rule(x, SPEC) for x in ("load > 1 kPa", "nearest(radar) <= 2 m"))
    assert one_unit([plain]) and one_unit([length, length])
    assert not one_unit([mixed]) and not one_unit([plain, length]) and not one_unit([])
    # Near its boundary is still near, so that states there can be chosen.
    obs = np.zeros((2, SPEC.size), np.float32)
    np.testing.assert_allclose(rule_labeler([mixed], 0.1)(obs).margin, mixed.margin(obs))
    assert np.isnan(rule_labeler([plain, length], 0.1)(obs).margin).all()


def test_labels_of_many_states_are_those_of_each() -> None:
    label = rule_labeler([parse_rule("nearest(radar) <= 2 m", SPEC)], 0.05)
    obs = np.random.default_rng(0).random((33, SPEC.size)).astype(np.float32)
    many = label(obs)
    assert many.unsafe.shape == (33,) and label(obs[:0]).unsafe.shape == (0,)
    for i in (0, 17, 32):
        np.testing.assert_allclose(label(obs[i : i + 1]).margin[0], many.margin[i], atol=1e-6)
