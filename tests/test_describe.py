"""Drafts of descriptions: what the logs tell is in them, and what they cannot tell is asked for."""

import pytest
from system_toys import ROWS, write_csv

from proco_jax.data.checks import DataError
from proco_jax.data.drafting import write_draft
from proco_jax.data.tables import read_tables
from proco_jax.knowledge.files import KnowledgeError
from proco_jax.system.description import OPEN, load_system

LOGS = "batch,time,Level [m],Kind,flow rate,cmd_pump,alarm"


def drafted(folder, header=LOGS, actions=()):
    rows = "\n".join(
        ",".join([*row.split(",")[:3], "big", *row.split(",")[3:5], "0"])
        for row in ROWS.splitlines()
    )
    path = write_csv(folder, rows, header)
    lines = write_draft(path, folder / "plant.md", "Plant", actions)
    return path, folder / "plant.md", lines


def test_a_draft_holds_what_the_logs_tell(tmp_path) -> None:
    _, out, lines = drafted(tmp_path)
    text = out.read_text()
    assert "| level | 1 | flat | m |  | Logged from 1 to 5. |" in text
    assert f"| flow_rate | 1 | flat | {OPEN} |  | Logged from 0 to 4. |" in text
    assert "| step | 1 s |" in text and "| episode steps | 2 |" in text
    assert "| level | Level [m] |" in text and "| episode | batch |" in text
    assert "| cost | alarm |" in text
    assert any("5 rows in 2 episodes" in line for line in lines)
    assert any("'Kind' is left out" in line for line in lines)
    assert any("limits of cmd_pump, logged from 0.5 to 0.5" in line for line in lines)


def test_a_draft_cannot_be_used_before_it_is_filled_in_and_can_then(tmp_path) -> None:
    path, out, _ = drafted(tmp_path)
    with pytest.raises(KnowledgeError, match="line 5 is not filled in yet: TO FILL IN: say in"):
        load_system(out)
    text = out.read_text()
    text = text.replace(f"| {OPEN} | {OPEN} | {OPEN} |", "| 1 | 0 | 10 |").replace(
        f"flat | {OPEN}", "flat | m/s"
    )
    text = text.replace(f"{OPEN}: such as level", "level").replace(OPEN, "1")
    out.write_text(text)
    system = load_system(out)
    assert system.observed() == ["level", "flow_rate"] and system.cost_limit == 1.0
    first, _ = read_tables(f"csv:{path}", system, "refuse", lambda line: None).episodes
    assert first.reward.tolist() == [2.0, 3.0] and first.action[0, 0] == pytest.approx(-0.9)


def test_actions_may_be_named_and_unknown_ones_are_refused(tmp_path) -> None:
    _, out, _ = drafted(tmp_path, actions=["flow rate"])
    assert f"| flow_rate | {OPEN} | {OPEN} | {OPEN} |" in out.read_text()
    out.unlink()
    with pytest.raises(DataError, match="no column 'valve'"):
        drafted(tmp_path, actions=["valve"])
    with pytest.raises(DataError, match="no column looks like an action"):
        drafted(tmp_path, LOGS.replace("cmd_pump", "pump"))
    with pytest.raises(DataError, match="no column tells the episodes apart"):
        drafted(tmp_path, LOGS.replace("batch", "number"))


def test_a_description_is_never_overwritten(tmp_path) -> None:
    drafted(tmp_path)
    with pytest.raises(ValueError, match="exists; name another file"):
        drafted(tmp_path)
