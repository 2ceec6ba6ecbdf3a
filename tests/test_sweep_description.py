"""What a sweep expands to: units, runs, members; which settings members may differ in."""

import itertools
import re
from pathlib import Path
from typing import Any

import jax
import pytest
from core_toys import TASK, tiny_config, toy_context, toy_keys

from proco_jax.config.schema import ALGORITHMS, Config, differences, flatten, replaced, to_json
from proco_jax.sweeps.description import Sweep, expand, is_member_setting, load_sweep
from proco_jax.sweeps.folder import Root, check_root, read_plan, write_plan
from proco_jax.training import loop

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "experiments" / "sweeps").glob("*.py"))
AXES: dict[str, Any] = {
    "experiments": ("point_goal", "car_goal"),
    "variant": "quick",
    "regimes": ("safe", "full"),
    "algorithms": ("proco", "bc"),
}


def test_values_and_seeds_are_members_and_all_else_makes_units() -> None:
    rates = {"bc.learning_rate": (1e-3, 3e-3, 1e-2), "train.batch": (64, 128)}
    units = expand(Sweep(**AXES, hyperparameters=rates, seeds=4))
    # 2 tasks x 2 regimes x 2 algorithms x 2 batch sizes; the rate concerns cloning alone.
    assert len(units) == 16
    by_algorithm = {u.runs[0].config.algorithms: u for u in units}
    assert [r.settings["bc.learning_rate"] for r in by_algorithm["bc",].runs] == [1e-3, 3e-3, 1e-2]
    assert by_algorithm["bc",].members == 12 and by_algorithm["proco",].members == 4
    assert all("bc.learning_rate" not in r.settings for r in by_algorithm["proco",].runs)
    names = [run.name for unit in units for run in unit.runs]
    assert len(set(names)) == len(names) == 8 * 3 + 8
    assert len({unit.name for unit in units}) == 16


def test_runs_of_a_unit_differ_in_its_values_alone() -> None:
    values = {"proco.tau": (0.01, 0.02), "feasibility.expectile": (0.8, 0.9)}
    (unit,) = expand(Sweep(("point_goal",), "quick", hyperparameters=values))
    assert len(unit.runs) == 4
    first, second = unit.runs[0].config, unit.runs[1].config
    lines = differences(second, to_json(first))
    assert [line.split(":")[0] for line in lines] == ["feasibility.expectile"]
    assert first.evaluation.interim_episodes == 0


def test_names_depend_on_nothing_but_the_configs() -> None:
    values = {"proco.tau": (0.01, 0.02, 0.03)}
    one = expand(Sweep(("point_goal",), "quick", hyperparameters=values))
    same = expand(Sweep(("point_goal",), "quick", hyperparameters=values))
    assert one == same
    split = expand(Sweep(("point_goal",), "quick", hyperparameters=values, unit_members=4))
    # Two seeds each: units of two runs and of one.
    assert [len(unit.runs) for unit in split] == [2, 1]
    assert [r.name for u in split for r in u.runs] == [r.name for r in one[0].runs]
    more = expand(Sweep(("point_goal",), "quick", hyperparameters={"proco.tau": (0.01, 0.05)}))
    assert more[0].runs[0].name == one[0].runs[0].name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experiments": ()}, "at least one"),
        ({"experiments": ("no_such",)}, "point_goal"),
        ({"hyperparameters": {"bc.rate": (1.0,)}}, "dotted name"),
        ({"hyperparameters": {"bc.learning_rate": ()}}, "no value"),
        ({"hyperparameters": {"bc.learning_rate": 1e-3}}, "tuple"),
        ({"hyperparameters": {"bc.learning_rate": (1e-3, 1e-3)}}, "twice"),
        ({"hyperparameters": {"bc.learning_rate": (-1.0,)}}, "bc.learning_rate=-1.0"),
        ({"hyperparameters": {"seeds": (1, 2)}}, "axis"),
        ({"settings": {"task": "x"}}, "axis"),
        ({"settings": {"bc.tau": 1}}, "dotted name"),
        ({"algorithms": ("proco", "proco")}, "twice"),
        ({"seeds": -1}, "0 or more"),
        (
            {"algorithms": ("bc",), "hyperparameters": {"fisor.learning_rate": (1e-3,)}},
            "fisor.learning_rate: found among the hyperparameters, but no run of",
        ),
        (
            {"settings": {"train.batch": 8}, "hyperparameters": {"train.batch": (8, 16)}},
            "both",
        ),
    ],
)
def test_a_wrong_description_is_an_error_that_names_it(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        expand(Sweep(**(AXES | change)))


@pytest.mark.parametrize("updates", [(0, 600), (0,)])
def test_the_improvement_concerns_what_learns_from_its_episodes(updates: tuple[int, ...]) -> None:
    axes = {"proco.imagination.updates": updates, "proco.imagination.episodes": (8, 16)}
    sweep = Sweep(**(AXES | {"algorithms": ("proco", "bc"), "hyperparameters": axes}))
    runs = [run.config for unit in expand(sweep) for run in unit.runs]
    found = {
        name: {
            (c.proco.imagination.updates, c.proco.imagination.episodes)
            for c in runs
            if c.algorithms == (name,)
        }
        for name in ("proco", "bc")
    }
    assert found["proco"] == set(itertools.product(updates, (8, 16)))
    assert len(found["bc"]) == (4 if any(updates) else 1)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_expands(file: Path) -> None:
    units = expand(load_sweep(str(file)))
    assert units and load_sweep(file.stem) == load_sweep(str(file))
    assert f"--sweep=experiments/sweeps/{file.name}" in file.read_text()


def test_a_sweep_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sweeps of the package: algorithms"):
        load_sweep("nothing")
    other = tmp_path / "other.py"
    other.write_text("def get_sweep():\n    return 3\n")
    with pytest.raises(ValueError, match="expected a Sweep"):
        load_sweep(str(other))
    with pytest.raises(ValueError, match="takes none"):
        load_sweep(f"{other}:paper")
    other.write_text("")
    with pytest.raises(ValueError, match="no function get_sweep"):
        load_sweep(str(other))


def test_settings_of_an_algorithm_of_the_users_own_are_no_members() -> None:
    assert not is_member_setting("feasibility.tau", "my_algorithm:make")
    assert is_member_setting("feasibility.tau", "bc") and is_member_setting(
        "bc.learning_rate", "bc"
    )
    for name in ("bc.hidden", "bc.safe_only", "proco.tau", "train.batch", "feasibility.safe"):
        assert not is_member_setting(name, "bc")


def other_values(algorithm: str) -> dict[str, float]:
    """Values other than the default of all settings in which members may differ."""
    settings = flatten(Config()).items()
    return {k: 0.9 * v or 0.5 for k, v in settings if is_member_setting(k, algorithm)}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_member_setting_is_an_argument_of_the_program(algorithm: str) -> None:
    config = tiny_config()

    def hyper(config: Config) -> list[float]:
        made = loop.make_program(config, TASK, algorithm, "proco")
        own = (made.algorithm.hyper, made.augmentation.hyper, config.feasibility)
        leaves = jax.tree.leaves(own[:2])
        return [float(x) for x in leaves] + [float(x) for x in vars(own[2]).values() if x != (16,)]

    before = hyper(config)
    for name, value in other_values(algorithm).items():
        assert hyper(replaced(config, {name: value})) != before, name


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_member_setting_changes_the_program(algorithm: str) -> None:
    """Otherwise a run would be trained with another run's value."""
    config = tiny_config()
    other = replaced(config, other_values(algorithm))
    context = toy_context(with_world=False)

    def traced(config: Config) -> str:
        program = loop.make_program(config, TASK, algorithm, "none")
        training, keys = loop.make_training(program), toy_keys(1)
        hyper = loop.make_hyper(program, 1)
        state = jax.eval_shape(training.init, context, hyper, keys)
        to_go = loop.logged_sums(program, context)

        def step(context: Any, hyper: Any, state: Any) -> Any:
            return loop.train_step(program, context, to_go, hyper, state)

        texts = [
            jax.make_jaxpr(training.init)(context, hyper, keys),
            jax.make_jaxpr(jax.vmap(step, in_axes=(None, 0, 0)))(context, hyper, state),
        ]
        return re.sub("0x[0-9a-f]+", "", "\n".join(map(str, texts)))

    # The checker refuses a scan over keys inside the vmap over members.
    with jax.debug_key_reuse(False):
        assert traced(config) == traced(other)


def test_the_plan_is_written_once_and_read_back(tmp_path: Path) -> None:
    root = Root(tmp_path)
    values = {"proco.tau": (0.01, 0.02)}
    units = expand(Sweep(("point_goal",), "quick", hyperparameters=values))
    assert write_plan(root, units) == (2, 0)
    planned = read_plan(root)
    assert [run.settings["proco.tau"] for run in planned] == [0.01, 0.02]
    assert {run.unit for run in planned} == {units[0].name}
    assert planned[0].task == "SafetyPointGoal1" and planned[0].seeds == [0, 1]
    before = (tmp_path / "sweep.json").stat().st_mtime_ns
    assert write_plan(root, units) == (0, 0)
    assert (tmp_path / "sweep.json").stat().st_mtime_ns == before
    fewer = expand(Sweep(("point_goal",), "quick", hyperparameters={"proco.tau": (0.02, 0.03)}))
    assert write_plan(root, fewer) == (1, 1)
    (tmp_path / "sweep.json").write_text("[1]")
    with pytest.raises(ValueError, match="damaged"):
        read_plan(root)
    with pytest.raises(FileNotFoundError, match="expected the --workdir"):
        read_plan(Root(tmp_path / "other"))


def test_an_address_is_no_root() -> None:
    with pytest.raises(ValueError, match="give the address of a sweep alone"):
        check_root("gs://bucket/sweep")
