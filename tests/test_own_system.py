"""The tank of the examples: its environment, its logs, and a small run from logs to a policy."""

import csv
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import SMALL, _value, run_here
from system_toys import pump, replaced_once
from test_experiments import load

from proco_jax.command_line import _with_found_files
from proco_jax.config.schema import Config, replaced
from proco_jax.config.validation import validate
from proco_jax.data.checks import DataError
from proco_jax.data.tables import find_tables, read_tables
from proco_jax.deployment.policy import load_policy
from proco_jax.envs.own import OwnEnv, OwnWorlds, find_maker
from proco_jax.evaluation.results import load_rows
from proco_jax.pipeline import stages
from proco_jax.pipeline.export import export_run
from proco_jax.pipeline.workdir import open_run
from proco_jax.system.description import load_system, with_system

FOLDER = Path(__file__).resolve().parent.parent / "experiments" / "own_system"
NOT_THERE = ("proco.hidden", "coptidice.hidden", "fisor.hidden", "fisor.width", "fisor.blocks")


def tank_config(**changes: str) -> Config:
    small = {k: v for k, v in SMALL.items() if k not in NOT_THERE and k != "data.episodes"}
    own = {
        "algorithms": "('bc',)",
        "augmentations": "('proco',)",
        "shields": "('filter','none')",
        "seeds": "1",
        "evaluation.interim_episodes": "0",
        "dynamics.steps": "200",
        "cost.steps": "100",
    }
    settings = {k: _value(v) for k, v in (small | own | changes).items()}
    return with_system(replaced(load(FOLDER / "tank.py").get_config("quick"), settings))


def tank_module():
    """The file of the environment."""
    find_maker(f"{FOLDER / 'tank_env.py'}:Tank")  # Imports Gymnasium without its messages.
    return load(FOLDER / "tank_env.py")


def test_the_experiment_can_be_run_and_its_description_is_read() -> None:
    for variant in ("quick", "default"):
        config = with_system(load(FOLDER / "tank.py").get_config(variant))
        validate(config)
        assert (config.task, config.cost_limit) == ("BufferTank", 1.0)
    with pytest.raises(ValueError, match="no variant 'paper'"):
        load(FOLDER / "tank.py").get_config("paper")


def test_the_shipped_logs_are_those_that_the_environment_makes(tmp_path) -> None:
    tank_module().make_logs(str(tmp_path / "logs.csv"))
    texts = (path.read_text() for path in (tmp_path / "logs.csv", FOLDER / "tank_logs.csv"))
    made, shipped = (list(csv.reader(text.splitlines())) for text in texts)
    assert made[0] == shipped[0] and len(made) == len(shipped)
    # Another machine may round the last digit differently.
    difference = np.array(made[1:], float) - np.array(shipped[1:], float)
    assert np.abs(difference).max() < 2e-4


def test_the_shipped_logs_never_violate_but_hold_states_that_no_command_saves() -> None:
    env, system = tank_module(), load_system(FOLDER / "tank.md")
    source = f"csv:{FOLDER / 'tank_logs.csv'}"
    episodes = read_tables(source, system, "refuse", lambda line: None).episodes
    obs = np.concatenate([e.obs for e in episodes])
    assert len(episodes) == 120 and obs[:, 0].max() <= env.LIMIT

    def overflows(state: np.ndarray) -> bool:
        level, valve, demand = (float(x) for x in state)
        for _ in range(30):
            valve -= env.LAG * valve
            level += env.INFLOW * valve / 100 - env.OUTFLOW * demand * np.sqrt(max(level, 0.0))
            if level > env.LIMIT:
                return True
        return False

    # A full valve at 1.55 m is safe, and lost: closing at once does not help any more.
    assert overflows(np.array([1.55, 100.0, 1.0])) and not overflows(np.array([1.55, 10.0, 1.0]))
    # Nothing like it is ever followed by an overflow in the logs.
    lost = np.array([overflows(state) for state in obs[::7]])
    assert lost.mean() < 0.02


def test_worlds_are_stepped_in_the_units_of_the_system_and_judged_by_their_cost() -> None:
    system = load_system(FOLDER / "tank.md")
    own = OwnEnv(find_maker(f"{FOLDER / 'tank_env.py'}:Tank"), system.unscale)
    worlds = OwnWorlds(system.task(), own, 2)
    first = worlds.reset([1, 2])
    result = worlds.step(np.array([[1.0], [-1.0]]))
    # The valve covers 12% of the way to 100% and to 0%.
    np.testing.assert_allclose(result.obs[0, 1], 0.88 * first[0, 1] + 12.0, rtol=1e-5)
    np.testing.assert_allclose(result.obs[1, 1], 0.88 * first[1, 1], rtol=1e-5)
    costs = []
    for _ in range(system.episode_steps - 1):
        assert not result.truncated.any()
        result = worlds.step(np.array([[1.0], [-1.0]]))
        costs.append(result.cost)
    assert result.truncated.all() and not result.terminated.any()
    assert np.array(costs).sum(axis=0).tolist()[1] == 0 < np.array(costs).sum(axis=0)[0]
    masked = worlds.step(np.zeros((2, 1)))
    assert masked.truncated.all() and masked.reward.tolist() == [0, 0]
    worlds.close()


class Silent:
    """An environment without costs, whose pressure is ten times the speed."""

    class Space:
        def __init__(self, size: int) -> None:
            self.shape = (size,)

    observation_space, action_space = Space(3), Space(2)

    def reset(self, seed: int):
        return np.zeros(3), {}

    def step(self, action: np.ndarray):
        return np.array([action[0] / 300, 0, 0]), 1.0, action[1] > 99, False, {}

    def close(self) -> None:
        pass


def test_the_rule_judges_an_environment_without_costs() -> None:
    system = pump()
    rule = system.knowledge.rule
    assert rule is not None
    own = OwnEnv(Silent, system.unscale, lambda obs: np.asarray(rule.unsafe(obs)))
    worlds = OwnWorlds(system.task(), own, 3)
    worlds.reset([0, 1, 2])
    result = worlds.step(np.array([[1.0, 0.0], [0.5, 0.0], [0.5, 1.0]]))
    # 10, 7.5 and 7.5 bar; the limit is 8 bar.
    assert result.cost.tolist() == [1, 0, 0] and result.terminated.tolist() == [False, False, True]
    with pytest.raises(ValueError, match="no 'cost', and the description has no rule"):
        judgeless = OwnWorlds(system.task(), OwnEnv(Silent, system.unscale), 1)
        judgeless.reset([0])
        judgeless.step(np.zeros((1, 2)))


def test_an_environment_of_other_sizes_is_refused() -> None:
    system = load_system(FOLDER / "tank.md")
    with pytest.raises(ValueError, match=r"observation_space has the shape \(3,\)|action_space"):
        OwnWorlds(system.task(), OwnEnv(Silent, system.unscale), 1)


@pytest.mark.parametrize("name", ["no_such_module:make", "nothing.py:make", "NoSuch-v0"])
def test_an_environment_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"--config\.system\.env"):
        find_maker(name)


def test_a_description_may_be_corrected_until_something_is_made_with_it(tmp_path) -> None:
    description = tmp_path / "tank.md"
    # Both descriptions name a column that is not there; neither fixes the run.
    for column in ("lot", "charge"):
        text = replaced_once((FOLDER / "tank.md").read_text(), "| batch |", f"| {column} |")
        description.write_text(text)
        config = tank_config(**{"system.file": repr(str(description))})
        with pytest.raises(DataError, match=f"no column '{column}'"):
            run_here(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing.py:make", "no file nothing.py"), ("CartPole-v1", "observation_space has the shape")],
)
def test_an_environment_that_cannot_be_used_is_an_error_before_any_work(
    tmp_path, name, message
) -> None:
    config = tank_config(**{"system.env": repr(name)})
    with pytest.raises(ValueError, match=message):
        run_here(config, tmp_path / "run")
    assert not (tmp_path / "run" / "dataset.json").exists()


def test_a_training_that_is_evaluated_later_asks_for_no_environment(tmp_path, monkeypatch) -> None:
    def begin(run) -> None:
        raise InterruptedError("work begins")

    monkeypatch.setattr(stages, "load_inputs", begin)
    config = tank_config(**{"system.env": "'nothing.py:make'"})
    with (
        pytest.raises(InterruptedError, match="work begins"),
        open_run(config, tmp_path / "run", log=lambda line: None) as run,
    ):
        stages.make_results(run, evaluate=False)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_keys")
def test_from_logs_to_an_exported_policy_without_and_with_an_environment(tmp_path) -> None:
    lines: list[str] = []
    offline = run_here(tank_config(**{"system.env": ""}), tmp_path / "offline", lines.append)
    report = json.loads((offline / "offline_evaluation.json").read_text())
    assert set(report["policies"]) == {"bc-proco, shield filter", "bc-proco, shield none"}
    for found in report["policies"].values():
        assert 0 <= found["violating_episodes"] <= 1 and 0 <= found["bound"] <= 1
        assert found["interval_low"] <= found["violating_episodes"] <= found["interval_high"]
    assert set(report["model"]["one_step"]) == {"level", "valve", "demand"}
    assert not (offline / "results.json").exists()
    text = (offline / "report.md").read_text()
    assert "Offline evaluation" in text and "It cannot tell" in text
    assert any("no column 'cost'" in line for line in lines)

    judged = run_here(tank_config(), tmp_path / "judged")
    rows = load_rows(judged / "results.json")
    assert {(row["task"], row["shield"]) for row in rows} == {
        ("BufferTank", "filter"),
        ("BufferTank", "none"),
    }
    assert all(row["normalized_return"] == row["return_mean"] for row in rows)
    # Nothing but the evaluation differs between both.
    again = json.loads((judged / "offline_evaluation.json").read_text())
    assert again == report
    first, second = (load_policy(folder, "bc", "proco", "filter") for folder in (offline, judged))

    obs = np.array([1.0, 50.0, 1.0])
    np.testing.assert_array_equal(first(obs, jax.random.key(0)), second(obs, jax.random.key(0)))

    meta = export_run(judged, tmp_path / "exported", "bc", "proco", "filter")
    assert [x["name"] for x in meta["inputs"]] == ["level", "valve", "demand"]
    assert meta["actions"] == [{"name": "command", "unit": "%", "low": 0.0, "high": 100.0}]
    assert meta["rule"] == "level > 1.8 m" and meta["step_s"] == 10.0

    changed = tank_config()
    other = tmp_path / "tank.md"
    other.write_text((FOLDER / "tank.md").read_text().replace("1.8 m", "1.7 m"))
    (judged / "system.md").write_text(other.read_text())
    with pytest.raises(ValueError, match="with which the run began"):
        run_here(changed, judged)


def test_the_example_is_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = _with_found_files(["--config=experiments/own_system/tank.py:quick"])
    assert found == f"--config={FOLDER / 'tank.py'}:quick"
    config = load(FOLDER / "tank.py").get_config()
    assert load_system(config.system.file).name == "BufferTank"
    assert find_tables(config.data.source.partition(":")[2]) == [FOLDER / "tank_logs.csv"]
    assert find_maker(config.system.env)().observation_space.shape == (3,)
