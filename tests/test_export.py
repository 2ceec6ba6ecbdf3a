"""Exported policies: they act like what was exported, and refuse what they cannot use."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC
from deployment_toys import deployed_program, toy_deployed

from proco_jax.deployment import exporting
from proco_jax.deployment.acting import initial_previous
from proco_jax.deployment.exported_runner import Policy
from proco_jax.deployment.policy import load_policy, save_policies
from proco_jax.pipeline.export import PARTIAL, export_run
from proco_jax.training.loop import Program

REMEMBERING = "deployment_toys:make_remembering"


@pytest.fixture(scope="module", autouse=True)
def _few_states():
    """The check and the measurement with few states."""
    before = exporting.CHECKED, exporting.TIMED
    exporting.CHECKED, exporting.TIMED = 40, 20
    yield
    exporting.CHECKED, exporting.TIMED = before


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with two kinds of policies, and the range of its logs."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("bc", REMEMBERING):
        program: Program = deployed_program(name)
        save_policies(folder, program, name, "proco", toy_deployed(program))
    support = {"low": [0.0] * SPEC.size, "high": [1.0] * SPEC.size}
    (folder / "dataset.json").write_text(json.dumps({"support": support}))
    return folder


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """The folder of one exported policy under the filter."""
    out = tmp_path_factory.mktemp("export") / "policy"
    export_run(workdir, out, "bc", "proco", "filter", seed=1)
    return out


@pytest.fixture(scope="module")
def runner(exported):
    """The exported policy, compiled once."""
    return Policy(str(exported))


def test_the_folder_says_what_it_holds(workdir, exported) -> None:
    meta = json.loads((exported / "policy.json").read_text())
    names = [x["name"] for x in meta["inputs"]]
    assert names[:4] == ["velocity_0", "velocity_1", "velocity_2", "hazards_0"]
    assert meta["inputs"][0]["unit"] == "m/s" and len(meta["actions"]) == ACTIONS
    assert (meta["algorithm"], meta["shield"], meta["seed"]) == ("bc", "filter", 1)
    assert meta["equality"]["states"] == 40 and meta["equality"]["largest"] < 1e-5
    assert 0 < meta["latency"]["median_ms"] <= meta["latency"]["p99_ms"]
    with pytest.raises(ValueError, match="is not empty"):
        export_run(workdir, exported, "bc", "proco")


@pytest.mark.parametrize(
    "shield", ["none", pytest.param("planner", marks=pytest.mark.slow)], ids=["none", "planner"]
)
def test_a_policy_with_a_memory_acts_as_loaded_over_an_episode(workdir, tmp_path, shield) -> None:
    policy = load_policy(workdir, "remembering", "proco", shield)
    inputs = [{"name": str(i), "unit": "", "low": 0, "high": 1} for i in range(SPEC.size)]
    actions = [{"name": str(i), "unit": "", "low": -1, "high": 1} for i in range(ACTIONS)]
    exporting.export_policy(policy, tmp_path / "out", inputs, actions, {})
    runner = Policy(str(tmp_path / "out"))
    rng = np.random.default_rng(0)
    runner.reset(7)
    carry, last, found = policy.initial_carry(), None, []
    for step in range(5):
        obs, told = rng.random(SPEC.size), (0.1 * step, float(step == 3))
        key = np.array([7, step], np.uint32)
        action, carry = policy.act(carry, obs, key, last, *told)
        last = np.asarray(action)
        found.append(runner.step(obs, *told)["action"])
        np.testing.assert_allclose(found[-1], last, atol=1e-5)
    # The number of steps is in the first component, and begins anew with an episode.
    runner.reset(7)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(runner.step(rng.random(SPEC.size))["action"], found[0], atol=1e-6)


def test_what_is_exported_beside_an_accelerator_runs_on_a_cpu_too(
    workdir, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(exporting.export, "default_export_platform", lambda: "cuda")
    policy = load_policy(workdir, "remembering", "proco", "none")
    inputs = [{"name": str(i), "unit": "", "low": 0, "high": 1} for i in range(SPEC.size)]
    actions = [{"name": str(i), "unit": "", "low": -1, "high": 1} for i in range(ACTIONS)]
    exporting.export_policy(policy, tmp_path / "out", inputs, actions, {})
    obs, key = np.full(SPEC.size, 0.5), np.zeros(2, np.uint32)
    found = Policy(str(tmp_path / "out")).step(obs)["action"]
    np.testing.assert_allclose(found, policy(obs, key), atol=1e-5)


@pytest.mark.slow
def test_whether_the_shield_intervened_is_told(workdir, runner) -> None:
    policy = load_policy(workdir, "bc", "proco", "filter", seed=1)
    previous = initial_previous(1, 1, ACTIONS)
    active, carry = jnp.ones((1, 1), bool), policy.initial_carry()
    decide = jax.jit(policy.actor.decide)
    rng, told = np.random.default_rng(1), []
    for i in range(30):
        obs = rng.random(SPEC.size).astype(np.float32)
        runner.reset(i)
        found = runner.step(obs)
        told.append(found["intervened"])
        key = jax.random.wrap_key_data(jnp.array([i, 0], jnp.uint32))[None, None]
        _, proposed, _ = decide(policy.deployed, carry, obs[None, None], previous, key, active)
        same = np.abs(np.asarray(proposed)[0, 0] - found["action"]).max() < 1e-5
        assert found["intervened"] == (not same)
    assert any(told) and not all(told)


def test_what_was_never_logged_is_named(runner) -> None:
    obs = np.full(SPEC.size, 0.5)
    assert runner.step(obs)["outside"] == []
    obs[0], obs[3] = 1.5, -0.1
    assert runner.step(obs)["outside"] == ["velocity_0", "hazards_0"]
    obs[0] = 1e6
    assert runner.step(obs)["unknown"] in (True, False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(SPEC.size - 1), "expected velocity_0"),
        (np.zeros((1, SPEC.size)), r"found float64 \(1, "),
        (["1"] * SPEC.size, "found <U1"),
        (np.append(np.nan, np.zeros(SPEC.size - 1)), "not finite: velocity_0"),
        (np.append(np.zeros(SPEC.size - 1), 1e300), "not finite: battery"),
    ],
)
def test_observations_that_cannot_be_used_are_refused(runner, wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        runner.step(wrong)


@pytest.mark.parametrize("told", [(np.nan, 0.0), (0.0, np.inf)])
def test_rewards_and_costs_that_are_not_finite_are_refused(runner, told) -> None:
    with pytest.raises(ValueError, match="reward and cost: found"):
        runner.step(np.full(SPEC.size, 0.5), *told)


def test_an_action_that_is_not_finite_is_never_returned(runner, monkeypatch) -> None:
    obs, call = np.full(SPEC.size, 0.5), runner._call
    runner.reset(3)
    expected = runner.step(obs)["action"]
    runner.reset(3)
    overflow = lambda *inputs: (np.full(ACTIONS, np.nan), *call(*inputs)[1:])  # noqa: E731
    monkeypatch.setattr(runner, "_call", overflow)
    with pytest.raises(ValueError, match="the networks' numbers overflow"):
        runner.step(obs)
    monkeypatch.undo()
    np.testing.assert_array_equal(runner.step(obs)["action"], expected)


def test_a_changed_program_is_refused(exported, tmp_path) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    program = copy / "policy.stablehlo"
    program.write_bytes(program.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ValueError, match="differs from what was exported"):
        Policy(str(copy))


@pytest.mark.slow
def test_an_exported_policy_runs_with_jax_and_numpy_alone(exported) -> None:
    program = """
import sys
from importlib.machinery import PathFinder

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "flatbuffers":
            return PathFinder.find_spec(name, ["vendor"])
        if name.split(".")[0] in ("proco_jax", "flax", "optax", "orbax", "chex", "gymnasium"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocked())
from run_policy import Policy
policy = Policy()
print(*policy.step([0.5] * len(policy.info["inputs"]))["action"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=exported,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == ACTIONS


def test_the_runner_is_short() -> None:
    from proco_jax.deployment import exported_runner

    with open(exported_runner.__file__, encoding="utf-8") as file:
        code = [line for line in file if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(code) < 60


def test_a_run_without_ranges_is_told_what_to_do(workdir, tmp_path) -> None:
    other = shutil.copytree(workdir, tmp_path / "other")
    (other / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold the range of the logs"):
        export_run(other, tmp_path / "out", "bc", "proco")


def test_an_export_that_is_interrupted_leaves_nothing_to_deploy(workdir, tmp_path, monkeypatch):
    def interrupted(*rest):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("proco_jax.pipeline.export.exporting.measure_latency", interrupted)
        export_run(workdir, out, "bc", "proco", "none")
    assert [path.name for path in out.iterdir()] == [PARTIAL]
    export_run(workdir, out, "bc", "proco", "none")
    assert (out / "policy.json").exists() and not (out / PARTIAL).exists()
    with pytest.raises(ValueError, match="is not empty"):
        export_run(workdir, out, "bc", "proco", "none")
