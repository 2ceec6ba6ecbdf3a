"""Logs in tables: what they become, and that errors name row and column."""

import json
import sys

import h5py
import numpy as np
import pytest
from system_toys import HEADER, PUMP, ROWS, pump, pump_episodes, replaced_once, write_csv
from test_data_dsrl import arrays, save

from proco_jax.config.schema import Config, SystemConfig
from proco_jax.data.checks import DataError
from proco_jax.data.logs import load_logs
from proco_jax.data.tables import Logged, find_tables, read_tables
from proco_jax.system.description import parse_system
from proco_jax.types import Episode


def read(folder, rows=ROWS, header=HEADER, gaps="refuse", system=None, log=None):
    path = write_csv(folder, rows, header)
    return logged(path, gaps, system, log).episodes


def logged(path, gaps="refuse", system=None, log=None) -> Logged:
    return read_tables(f"csv:{path}", system or pump(), gaps, log or (lambda line: None))


def assert_same(found: list[Episode], expected: list[Episode]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)
            assert x.dtype == np.float32
        assert a.terminated == b.terminated


def test_rows_become_episodes_by_hand(tmp_path) -> None:
    assert_same(read(tmp_path), pump_episodes())


def test_reward_and_cost_of_a_step_belong_to_the_row_in_which_it_starts(tmp_path) -> None:
    text = replaced_once(PUMP, "| margin |", "| reward and cost of | step |\n| margin |")
    first, _ = read(tmp_path, system=parse_system(text))
    assert first.reward.tolist() == [0, 10]


def test_episodes_may_be_interleaved_and_separated_by_semicolons(tmp_path) -> None:
    lines = ROWS.splitlines()
    mixed = [lines[3], lines[0], lines[4], *lines[1:3]]
    found = read(tmp_path, "\n".join(mixed).replace(",", ";"), HEADER.replace(",", ";"))
    assert_same(found, pump_episodes()[::-1])


def test_costs_and_terminations_are_read_where_there_are_any(tmp_path) -> None:
    flags = ["0,0", "0,0", "1,1", "0,0", "0,0"]
    rows = "\n".join(f"{row},{f}" for row, f in zip(ROWS.splitlines(), flags, strict=True))
    a, b = read(tmp_path, rows, f"{HEADER},cost,terminated")
    assert a.cost.tolist() == [0, 1] and a.terminated
    assert b.cost.tolist() == [0] and not b.terminated


def with_costs(costs: list[str], rows: str = ROWS) -> str:
    return "\n".join(f"{row},{c}" for row, c in zip(rows.splitlines(), costs, strict=True))


@pytest.mark.parametrize(
    ("of_step", "costs", "unread"),
    [
        (False, "0 0 2 0 0", [0, 0]),
        (False, "3 0 0 0 1", [3, 0]),
        (False, "0 0 0 4 0", [0, 4]),
        (True, "3 0 0 4 0", [0, 0]),
        (True, "0 0 5 0 1", [5, 1]),
    ],
)
def test_a_cost_in_a_row_without_a_step_is_not_forgotten(tmp_path, of_step, costs, unread) -> None:
    text = replaced_once(PUMP, "| margin |", "| reward and cost of | step |\n| margin |")
    path = write_csv(tmp_path, with_costs(costs.split()), f"{HEADER},cost")
    found = logged(path, system=parse_system(text if of_step else PUMP))
    assert found.unread_cost == unread
    total = sum(e.cost.sum() for e in found.episodes) + sum(unread)
    assert total == sum(map(float, costs.split()))


def test_a_cost_lost_in_a_gap_counts_for_the_episode_before_it(tmp_path) -> None:
    rows = "\n".join(f"c,{t},1,0,0.5,0,50,{t}" for t in range(8)).replace("c,3,1", "c,3,")
    path = write_csv(tmp_path, with_costs(list("00010007"), rows), f"{HEADER},cost")
    found = logged(path, "split")
    assert [e.cost.tolist() for e in found.episodes] == [[0, 0], [0, 0, 7]]
    assert found.unread_cost == [1, 0]
    # Nothing comes before the first rows, and a row alone is no episode.
    rows = rows.replace("c,0,1", "c,0,").replace("c,2,1", "c,2,")
    write_csv(tmp_path, with_costs(list("02400000"), rows), f"{HEADER},cost")
    found = logged(path, "split")
    assert [e.cost.tolist() for e in found.episodes] == [[0, 0, 0]]
    assert found.unread_cost == [6]


def test_an_episode_with_a_cost_that_no_step_has_is_not_free_of_violations(tmp_path) -> None:
    rows = [f"{name},{t},{t},0,0.5,0,50,1" for name in "cdef" for t in range(3)]
    costs = ["9" if row.startswith("d,0") else "0" for row in rows]
    path = write_csv(tmp_path, with_costs(costs, "\n".join(rows)), f"{HEADER},cost")
    lines: list[str] = []
    logs = load_logs(own_config(tmp_path, f"csv:{path}"), tmp_path / "run", lines.append)
    assert logs.split.dropped == [1]
    assert any("1 episode(s) count as violating" in line for line in lines)


def test_files_of_one_log_have_the_same_optional_columns(tmp_path) -> None:
    write_csv(tmp_path, with_costs(list("00000")), f"{HEADER},cost").rename(tmp_path / "a.csv")
    write_csv(tmp_path, ROWS, HEADER).rename(tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"b\.csv: found no column 'cost', which other files"):
        logged(tmp_path / "*.csv")


@pytest.mark.parametrize("name", ["terminated", "time", "cost"])
def test_an_optional_column_that_the_description_names_must_be_there(tmp_path, name) -> None:
    named = "| speed | Speed (1/min) |"
    text = replaced_once(PUMP, named, f"{named}\n| {name} | Other |")
    with pytest.raises(DataError, match="found no column 'Other'"):
        read(tmp_path, system=parse_system(text))


def test_logs_without_costs_and_with_constant_numbers_are_said_so_in_words(tmp_path) -> None:
    lines: list[str] = []
    read(tmp_path, log=lines.append)
    assert any("no column 'cost'" in line and "nothing went wrong" in line for line in lines)
    assert any("flow_1 is always 0.5" in line for line in lines)


def test_a_constant_number_that_the_rule_reads_is_told(tmp_path) -> None:
    rows = "\n".join(
        ",".join([*row.split(",")[:2], "3", *row.split(",")[3:]]) for row in ROWS.splitlines()
    )
    lines: list[str] = []
    read(tmp_path, rows, log=lines.append)
    assert any("pressure is always 3" in line and "The rule reads it" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "3000,100",
            "3300,100",
            r"row 3, column 'Speed \(1/min\)': found 3300, expected 0 to 3000",
        ),
        ("a,2,3", "a,2,three", "row 4, column 'pressure': found 'three', expected a number"),
        ("a,1,2", "a,1,inf", "row 3, column 'pressure': found inf"),
        ("a,1,2", "a,1,1e39", "row 3, column 'pressure': found 1e\\+39, expected a finite"),
        ("a,1,2", "a,1,", "row 3, column 'pressure': a value is missing"),
        ("a,2,", "a,1,", "row 4, column 'time': .* remove the rows that stand twice"),
        ("a,2,", "a,,", "row 4, column 'time': the time is missing here"),
        ("a,2,", "a,9,", "row 4, column 'time': 8 s after the row before"),
        ("a,2,", "a,0,", "row 4, column 'time': the time does not increase"),
        ("a,2,", ",2,", "row 4, column 'episode': the episode is missing"),
        ("1500,0,20", "1500,0,", "row 4, column 'reward': the reward is missing"),
        ("1500,0,20", "1500,0,20,1", "row 4: found 9 cells, expected 8"),
        ("a,1,2,", "a,soon,2,", "row 3, column 'time': found 'soon'"),
    ],
)
def test_errors_name_row_and_column(tmp_path, old, new, message) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, replaced_once(ROWS, old, new))


@pytest.mark.parametrize("name", ["pressure", "episode", "valve", "reward"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path, name) -> None:
    with pytest.raises(DataError, match=f"no column '{name}'"):
        read(tmp_path, header=HEADER.replace(name, "other"))


def test_the_remedy_for_gaps_is_told_and_splits_episodes_there(tmp_path) -> None:
    extra = "\n".join(f"c,{t},1,0,0.5,0,50,{t}" for t in (0, 1, 2, 5, 6, 7, 8))
    with pytest.raises(DataError, match=r"--config\.data\.gaps=split"):
        read(tmp_path, f"{ROWS}\n{extra}")
    lines: list[str] = []
    found = read(tmp_path, f"{ROWS}\n{extra}", gaps="split", log=lines.append)
    assert_same(found[:2], pump_episodes())
    assert [e.reward.tolist() for e in found[2:]] == [[1, 2], [6, 7, 8]]
    assert any("1 gaps" in line for line in lines)
    missing = extra.replace("c,6,1", "c,6,")
    found = read(tmp_path, f"{ROWS}\n{missing}", gaps="split")
    assert [e.reward.tolist() for e in found[2:]] == [[1, 2], [8]]


def test_dates_are_times(tmp_path) -> None:
    rows = ROWS
    for time in (0, 1, 2, 7, 8):
        rows = rows.replace(f",{time},", f",2024-05-01T12:00:{time:02},", 1)
    rows = "\n".join(
        f"{row.split(',')[0]},2024-05-01T12:00:0{t},{row.split(',', 2)[2]}"
        for row, t in zip(ROWS.splitlines(), (0, 1, 2, 7, 8), strict=True)
    )
    assert_same(read(tmp_path, rows), pump_episodes())
    with pytest.raises(DataError, match="3 s after the row before"):
        read(tmp_path, rows.replace("12:00:02", "12:00:04"))
    # A date that is missing ends an episode, wherever it stands.
    more = "\n".join(f"c,2024-05-01T12:01:0{t},1,0,0.5,0,50,{t}" for t in range(7))
    for lost, rewards in ((0, [[2, 3, 4, 5, 6]]), (3, [[1, 2], [5, 6]])):
        gap = more.replace(f"c,2024-05-01T12:01:0{lost}", "c,")
        with pytest.raises(DataError, match="the time is missing here or in the row before"):
            read(tmp_path, f"{gap}\n{rows}")
        found = read(tmp_path, f"{gap}\n{rows}", gaps="split")
        assert [e.reward.tolist() for e in found[:-2]] == rewards


def test_actions_that_use_little_of_their_range_are_told(tmp_path) -> None:
    rows = ROWS.replace(",3000,", ",1,").replace(",1500,", ",0.5,")
    lines: list[str] = []
    read(tmp_path, rows, log=lines.append)
    assert any("speed takes values from 0 to 1" in x and "scaled already" in x for x in lines)
    read(tmp_path, ROWS.replace(",3000,", ",0,").replace(",1500,", ",0,"), log=lines.append)
    assert any("speed takes values from 0 to 0" in x and "check the limits" in x for x in lines)


def test_a_parquet_file_is_read_as_the_same_csv_file(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = dict(zip(HEADER.split(","), zip(*(r.split(",") for r in ROWS.splitlines()))))  # noqa: B905
    typed = {
        name: pyarrow.array(cells if name == "episode" else [float(c) for c in cells])
        for name, cells in columns.items()
    }
    parquet.write_table(pyarrow.table(typed), tmp_path / "logs.parquet")
    found = read_tables(f"parquet:{tmp_path}/*.parquet", pump(), "refuse", lambda line: None)
    assert_same(found.episodes, pump_episodes())
    typed["pressure"] = pyarrow.array([1.0, None, 3.0, 4.0, 5.0])
    parquet.write_table(pyarrow.table(typed), tmp_path / "logs.parquet")
    with pytest.raises(DataError, match="row 1, column 'pressure': a value is missing"):
        read_tables(f"parquet:{tmp_path}/*.parquet", pump(), "refuse", lambda line: None)
    stamps = [None, *(np.datetime64(f"2024-05-01T12:00:0{t}", "us") for t in (1, 2, 7, 8))]
    typed |= {"pressure": pyarrow.array([1.0] * 5), "time": pyarrow.array(stamps)}
    parquet.write_table(pyarrow.table(typed), tmp_path / "logs.parquet")
    with pytest.raises(DataError, match="row 1, column 'time': the time is missing here or in"):
        read_tables(f"parquet:{tmp_path}/*.parquet", pump(), "refuse", lambda line: None)


def test_without_pyarrow_the_package_to_install_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "logs.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"proco-jax\[parquet\]"):
        read_tables(f"parquet:{tmp_path / 'logs.parquet'}", pump(), "refuse")


def test_a_pattern_without_files_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match=r"^--config\.data\.source: no file"):
        find_tables(str(tmp_path / "*.csv"))
    with pytest.raises(DataError, match=r"^--data: no file"):
        find_tables(str(tmp_path / "*.csv"), "--data")


def own_config(folder, source: str) -> Config:
    path = folder / "pump.md"
    path.write_text(PUMP)
    config = Config(task="Pump", system=SystemConfig(file=str(path)))
    config.data.source, config.data.root = source, str(folder / "data")
    return config


def test_load_logs_reads_a_table_and_refuses_changed_ones(tmp_path) -> None:
    config = own_config(tmp_path, f"csv:{write_csv(tmp_path)}")
    logs = load_logs(config, tmp_path / "run", lambda line: None)
    assert len(logs.episodes) + len(logs.holdout) == 2 and logs.task == "Pump"
    write_csv(tmp_path, ROWS.replace("a,2,3", "a,2,3.5"))
    with pytest.raises(DataError, match="began with other logs"):
        load_logs(config, tmp_path / "run", lambda line: None)


def write_minari(root, episodes: list[Episode], key: str | None) -> None:
    """A dataset as Minari writes it, costs under a key of the infos if there is one."""
    folder = root / "toys" / "pump-v0" / "data"
    folder.mkdir(parents=True)
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for i, e in enumerate(episodes):
            group = file.create_group(f"episode_{i}")
            group["observations"] = e.obs
            group["actions"] = pump().unscale(e.action).astype(np.float32)
            group["rewards"] = e.reward
            group["terminations"] = np.zeros(len(e.reward), bool)
            group["truncations"] = np.arange(len(e.reward)) == len(e.reward) - 1
            if key is not None:
                group.create_group("infos")[key] = e.cost
    steps = sum(len(e.reward) for e in episodes)
    metadata = {"total_episodes": len(episodes), "total_steps": steps, "data_format": "hdf5"}
    (folder / "metadata.json").write_text(json.dumps(metadata))


def read_minari(folder, key: str | None, **settings: str) -> tuple[list[Episode], list[str]]:
    config = own_config(folder, "minari:toys/pump-v0")
    for name, value in settings.items():
        setattr(config.data, name, value)
    write_minari(folder / "data", pump_episodes(), key)
    lines: list[str] = []
    logs = load_logs(config, folder / "run", lines.append)
    return sorted([*logs.episodes, *logs.holdout], key=lambda e: -len(e.reward)), lines


def test_minari_actions_are_scaled_and_the_description_names_the_observations(tmp_path) -> None:
    found, lines = read_minari(tmp_path, "cost")
    assert_same(found, pump_episodes())
    assert not any("no entry" in line for line in lines)


def test_a_minari_dataset_without_costs_is_safe_and_said_to_be(tmp_path) -> None:
    found, lines = read_minari(tmp_path, None)
    assert_same(found, pump_episodes())
    assert any("no entry 'cost'" in line and "nothing went wrong" in line for line in lines)


def test_a_minari_dataset_may_name_its_costs_differently(tmp_path) -> None:
    found, lines = read_minari(tmp_path, "alarm", cost_key="alarm")
    assert_same(found, pump_episodes())
    assert not any("no entry" in line for line in lines)


def test_a_named_cost_that_is_missing_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match=r"expected infos\['alarm'\].*found the infos cost"):
        read_minari(tmp_path, "cost", cost_key="alarm")


def test_minari_actions_outside_of_their_limits_are_named(tmp_path) -> None:
    config = own_config(tmp_path, "minari:toys/pump-v0")
    first, second = pump_episodes()
    action = first.action.copy()
    action[1, 0] = 2.0
    write_minari(tmp_path / "data", [first._replace(action=action), second], None)
    with pytest.raises(DataError, match="episode 0, step 1, action 'speed': found 4500"):
        load_logs(config, tmp_path / "run", lambda line: None)


def test_a_dsrl_file_of_a_described_system_is_read(tmp_path) -> None:
    path = tmp_path / "pump.hdf5"
    first, second = pump_episodes()
    episodes = [
        e._replace(action=pump().unscale(e.action).astype(np.float32))
        for e in (first, second._replace(terminated=True))
    ]
    save(path, arrays(episodes))
    logs = load_logs(own_config(tmp_path, f"dsrl:{path}"), tmp_path / "run", lambda line: None)
    found = sorted([*logs.episodes, *logs.holdout], key=lambda e: -len(e.reward))
    assert_same(found, [first, second._replace(terminated=True)])
