"""The comparison: hand-worked statistics, missing rows, and files that need nothing outside."""

import csv
import io
import json
import re
from typing import Any

import pytest
from test_report_results import row

from proco_jax.envs.tasks import get_task
from proco_jax.report import comparison_files
from proco_jax.report.comparison import (
    LogsReference,
    Setting,
    compare,
    expected_rows,
    main_gains,
)
from proco_jax.report.comparison_tables import (
    comparison_markdown,
    comparison_tables,
    policies_csv,
    runs_csv,
)
from proco_jax.report.html import Cell, Section, Table, page, paragraph, table_html

TASK = "SafetyPointGoal1"
SETTING = Setting("", TASK, "collect", "safe", 10.0)
POLICIES = [
    ("fisor", augmentation, shield)
    for augmentation in ("none", "control", "proco")
    for shield in ("none", "planner")
]
# Costs of two episodes of each of two seeds, by augmentation and shield.
COSTS = {
    ("none", "none"): ((30.0, 50.0), (20.0, 40.0)),
    ("control", "none"): ((20.0, 40.0), (10.0, 30.0)),
    ("proco", "none"): ((10.0, 30.0), (0.0, 20.0)),
    ("none", "planner"): ((0.0, 12.0), (12.0, 14.0)),
    ("control", "planner"): ((0.0, 12.0), (12.0, 14.0)),
    ("proco", "planner"): ((0.0, 0.0), (0.0, 12.0)),
}
RETURNS = {"none": (9.0, 11.0), "planner": (4.0, 6.0)}


def rows(algorithm: str = "fisor", **axes: Any) -> list[dict[str, Any]]:
    return [
        row(
            augmentation,
            shield,
            RETURNS[shield],
            costs[seed],
            seed=seed,
            algorithm=algorithm,
            **axes,
        )
        for (augmentation, shield), costs in COSTS.items()
        for seed in (0, 1)
    ]


def entry(content: dict[str, Any], augmentation: str, shield: str) -> dict[str, Any]:
    wanted = augmentation, shield
    (found,) = (p for p in content["policies"] if (p["augmentation"], p["shield"]) == wanted)
    return found


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    expected = expected_rows(*SETTING[1:], POLICIES, (0, 1))
    logs = {SETTING: LogsReference(8.0, 0.0, 100)}
    return compare(rows(), expected=expected, logs=logs).content


def test_a_policy_by_hand(whole: dict[str, Any]) -> None:
    found = entry(whole, "proco", "planner")
    assert found["cost_mean"]["point"] == 3 and found["cost_std"] == pytest.approx(18**0.5)
    assert found["cost_iqm"]["point"] == 0 and found["normalized_cost"]["point"] == 0.3
    assert found["episodes_within_limit"]["point"] == 0.75
    assert found["violation_free"]["point"] == 0.75
    # Mean costs of 0 and 6 are both within the limit of 10.
    assert found["runs_within_limit"]["point"] == 1 and found["meets_limit"]
    assert 0 < found["runs_within_limit"]["low"] < 1
    other = entry(whole, "none", "planner")
    assert other["runs_within_limit"]["point"] == 0.5 and other["cost_mean"]["point"] == 9.5
    low, high = get_task(TASK).reference_min, get_task(TASK).reference_max
    expected = (5 - low) / (high - low)
    assert found["normalized_return"]["point"] == pytest.approx(expected, abs=1e-6)
    assert all(one["status"] == "complete" for one in whole["policies"])


def test_gains_by_hand(whole: dict[str, Any]) -> None:
    found = {
        (g["axis"], g["policy"]["augmentation"], g["baseline"]["augmentation"]): g
        for g in whole["gains"]
        if g["axis"] != "shield"
    }
    assert set(found) == {
        ("training", "proco", "none"),
        ("training", "control", "none"),
        ("knowledge", "proco", "control"),
    }
    # Every episode differs by as much, so the intervals have no width.
    same = {"point": -20.0, "low": -20.0, "high": -20.0}
    assert found["training", "proco", "none"]["cost"] == same
    assert found["knowledge", "proco", "control"]["cost"]["point"] == -10
    assert found["knowledge", "proco", "control"]["return"]["point"] == 0
    shields = [g for g in whole["gains"] if g["axis"] == "shield"]
    by_augmentation = {g["policy"]["augmentation"]: g for g in shields}
    assert by_augmentation["proco"]["cost"]["point"] == 3 - 15
    assert by_augmentation["none"]["cost"]["point"] == 9.5 - 35
    assert by_augmentation["proco"]["return"]["point"] == -5


def test_improvement_by_hand(whole: dict[str, Any]) -> None:
    found = {(e["baseline"], e["shield"]): e for e in whole["improvement"]}
    # Mean costs of the runs: 20 and 10 with proco, 40 and 30 without, 30 and 20 with control.
    assert found["none", "none"]["cost"]["point"] == 1
    assert found["control", "none"]["cost"]["point"] == (3 + 0.5) / 4
    assert found["none", "none"]["return"]["point"] == 0.5
    # 0 and 6 against 6 and 13.
    assert found["none", "planner"]["cost"]["point"] == (3 + 0.5) / 4


def test_profiles_by_hand(whole: dict[str, Any]) -> None:
    (profile,) = whole["profiles"]
    thresholds = profile["cost_thresholds"]
    assert thresholds[0] == 0 and 1.0 in thresholds and thresholds == sorted(thresholds)
    (policy,) = (
        p for p in profile["policies"] if (p["augmentation"], p["shield"]) == ("proco", "none")
    )
    # Costs 10, 30, 0 and 20 at a limit of 10.
    shares = dict(zip(thresholds, policy["cost"]["point"], strict=True))
    assert shares[0.0] == 0.25 and shares[1.0] == 0.5 and shares[thresholds[-1]] == 1
    assert policy["return"]["point"][0] == 1 and policy["return"]["point"][-1] == 0.5


def test_findings_state_what_was_measured(whole: dict[str, Any]) -> None:
    training, knowledge, shield = whole["findings"]
    assert "proco" in training["text"] and "of 1 algorithm" in training["text"]
    assert (training["compared"], training["cost_lower_confident"]) == (1, 1)
    assert training["cost_range"] == [-20, -20] and "-20.0 to -20.0" in training["text"]
    # A mean return of 10, the logs have 8; under the shield it is 5.
    assert training["return_of_logs_kept"] == 1 and shield["return_of_logs_kept"] == 0
    assert knowledge["cost_range"] == [-10, -10]
    assert (shield["meet_limit"], shield["baseline_meets_limit"]) == (1, 0)
    assert "The cost limit is met by 1 of the former and 0 of the latter." in shield["text"]


def test_nothing_is_confident_of_a_single_episode() -> None:
    pair = [row(x, "none", [1.0], [cost], seed=0) for x, cost in (("proco", 5.0), ("none", 90.0))]
    found = compare(pair)
    (gain,) = found.content["gains"]
    assert gain["cost"] == {"point": -85.0, "low": -85.0, "high": -85.0}
    training = found.content["findings"][0]
    assert (training["cost_lower"], training["cost_lower_confident"]) == (1, 0)


def test_a_finding_is_about_one_contrast() -> None:
    left = [one for one in rows() if one["augmentation"] != "proco"]
    content = compare(left).content
    shields = main_gains([gain for gain in content["gains"] if gain["axis"] == "shield"])
    assert [gain["policy"]["augmentation"] for gain in shields] == ["control"]
    assert "(control) against the logs alone" in content["findings"][0]["text"]
    # What has only a weaker contrast is not counted under the name of the stronger one.
    other = [one for one in rows("bc") if one["augmentation"] != "proco"]
    training, knowledge, shield = compare([*rows(), *other]).content["findings"]
    assert training["planned"] == knowledge["planned"] == shield["planned"] == 1
    assert "(proco) against the logs alone" in training["text"]
    assert main_gains([]) == []


def test_missing_rows_are_shown_as_missing_and_never_estimated() -> None:
    expected = expected_rows(*SETTING[1:], [*POLICIES, ("bc", "proco", "none")], (0, 1))
    left = [
        one
        for one in rows()
        if (one["augmentation"], one["shield"]) != ("control", "none")
        and not (one["augmentation"] == "proco" and one["seed"] == 1)
    ]
    content = compare(left, expected=expected, notes={"bc": "failed: loss not finite"}).content
    gone = entry(content, "control", "none")
    assert gone["status"] == "missing" and gone["missing_seeds"] == [0, 1]
    assert gone["cost_mean"] is None and gone["meets_limit"] is None
    partial = next(
        p for p in content["policies"] if p["algorithm"] == "fisor" and p["status"] == "partial"
    )
    assert partial["seeds"] == [0] and partial["missing_seeds"] == [1]
    by_axis = {g["axis"]: g for g in content["gains"] if g["axis"] == "knowledge"}
    assert by_axis["knowledge"]["cost"] is None
    assert "not measured yet (0 of 1 algorithm" in content["findings"][1]["text"]
    text = comparison_markdown(content, "t")
    assert "| bc | proco | none | missing | - |" in text and "| 1 of 2 x 2 |" in text
    assert "1 are missing" not in content["findings"][0]["text"]
    assert "failed: loss not finite" in text
    assert "Incomplete: of 7 policies, 2 are missing and 2 lack some of their seeds." in text


def test_only_expected_rows_give_a_comparison_of_missing_ones() -> None:
    content = compare([], expected=expected_rows(*SETTING[1:], POLICIES, (0,))).content
    assert {one["status"] for one in content["policies"]} == {"missing"}
    assert content["profiles"] == []
    assert all("not measured yet" in finding["text"] for finding in content["findings"])
    with pytest.raises(ValueError, match="needs rows of results, found none"):
        compare([])


def test_settings_are_compared_apart_and_improvement_over_all_of_them_too() -> None:
    # At a limit of 25 every policy is another one, and keeps it more often.
    content = compare([*rows(), *rows(cost_limit=25.0)]).content
    assert len(content["settings"]) == 2 and len(content["policies"]) == 12
    limits = [one["cost_limit"] for one in content["improvement"] if one["shield"] == "none"]
    assert limits == [10, 10, 25, 25, None, None]
    assert [one["settings"] for one in content["improvement"]][-1] == 2
    assert content["findings"][0]["compared"] == 2
    assert "pairs of algorithm and task" in content["findings"][0]["text"]


def test_runs_are_told_apart_by_their_name_and_equal_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="different values of the key `run`"):
        compare([*rows(), *rows()])
    named = [one | {"run": name} for name in ("low", "high") for one in rows()]
    content = compare(named).content
    assert {one["run"] for one in content["policies"]} == {"low", "high"}
    assert comparison_tables(content)[0].header[0] == "run"
    assert len(content["profiles"]) == 2


def test_the_last_step_counts_whatever_its_scores() -> None:
    early = row("proco", "none", (99.0,), (0.0,), algorithm="fisor", seed=0, step=50)
    content = compare([*rows(), early]).content
    assert entry(content, "proco", "none")["cost_mean"]["point"] == 15


def test_tables_as_csv_can_be_read_back(whole: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(policies_csv(whole))))
    assert len(lines) == len(POLICIES)
    for line, policy in zip(lines, whole["policies"], strict=True):
        assert float(line["cost_mean_low"]) == policy["cost_mean"]["low"]
        assert float(line["runs_within_limit"]) == policy["runs_within_limit"]["point"]
        assert line["seeds"] == "0 1" and line["missing_seeds"] == ""
    runs = list(csv.DictReader(io.StringIO(runs_csv(rows()))))
    assert [float(one["cost_mean"]) for one in runs] == [one["cost_mean"] for one in rows()]
    gone = compare([], expected=expected_rows(*SETTING[1:], POLICIES, (0,))).content
    assert all(one["cost_mean"] == "" for one in csv.DictReader(io.StringIO(policies_csv(gone))))


def numbers(content: Any) -> set[float]:
    """Every number of JSON data."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return set().union(*map(numbers, content))
    numeric = isinstance(content, int | float) and not isinstance(content, bool)
    return {float(content)} if numeric else set()


def test_the_page_needs_nothing_outside_and_holds_every_number(tmp_path: Any) -> None:
    expected = expected_rows(*SETTING[1:], [*POLICIES, ("bc", "proco", "none")], (0, 1))
    comparison = compare(rows(), expected=expected)
    made = {"command": "python -m proco_jax.compare --config=<file>", "machine": "a & b"}
    path = comparison_files.write_comparison(tmp_path, comparison, rows(), "A title", made)
    text = path.read_text()
    # Whatever a browser would fetch is inside of the page.
    for reference in re.findall(r"""(?:src|href|action|poster)\s*=\s*["']([^"']*)""", text):
        assert reference.startswith(("data:image/png;base64,", "#")), reference[:60]
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|<object|<embed", text)
    assert (
        text.count("<img") == len(list((tmp_path / comparison_files.PICTURES).glob("*.png"))) == 5
    )
    content = json.loads((tmp_path / comparison_files.JSON).read_text())
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert embedded is not None
    assert numbers(json.loads(embedded[1])) == numbers(content) >= {-20.0, 0.875}
    shown = text[: embedded.start()]
    for table in comparison_tables(content):
        for cells in table.rows:
            for cell in cells:
                assert f">{cell.text}</td>" in shown
                assert cell.value is None or f'data-value="{cell.value!r}"' in shown
    assert "--config=&lt;file&gt;" in shown and "a &amp; b" in shown
    # What a reader must know first comes first.
    order = [shown.index(one["text"].split(",")[0]) for one in content["findings"]]
    assert order == sorted(order) and order[-1] < shown.index("<table>") < shown.index(
        "missing</td>"
    )
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    comparison_files.write_tables(tmp_path, comparison, rows(), "A title", made)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert set(before) == {
        "comparison.json", "comparison.csv", "runs.csv", "comparison.md", "comparison.html",
    }  # fmt: skip


def test_texts_of_a_page_are_escaped() -> None:
    table = Table("t", "c", ("<b>",), [[Cell("</td><script>", 0.5, "better")]], 0)
    text = page("</title>", [Section("<i>", paragraph("&"))], [], {"name": "</script><b>"})
    assert "</title></title>" not in text and "&lt;/title&gt;" in text
    assert "</script><b>" not in text and "\\u003c/script>" in text
    assert "<p>&amp;</p>" in text
    cell = '<td class="num better" data-value="0.5">&lt;/td&gt;&lt;script&gt;</td>'
    assert cell in table_html(table)
