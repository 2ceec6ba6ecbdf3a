"""Exported policies: they act like what was exported, and refuse what they cannot use."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from core_toys import ACTIONS, SPEC
from deployment_toys import deployed_program, toy_deployed

from proco_jax.deployment import exporting
from proco_jax.deployment.exported_runner import Policy
from proco_jax.deployment.policy import load_policy, save_policies
from proco_jax.pipeline.export import export_run
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
    """The folder of one exported policy under the planner."""
    out = tmp_path_factory.mktemp("export") / "policy"
    export_run(workdir, out, "bc", "proco", "planner", seed=1)
    return out


def test_the_folder_says_what_it_holds(workdir, exported) -> None:
    meta = json.loads((exported / "policy.json").read_text())
    assert [x["name"] for x in meta["inputs"]][:4] == [
        "velocity_0",
        "velocity_1",
        "velocity_2",
        "hazards_0",
    ]
    assert meta["inputs"][0]["unit"] == "m/s" and len(meta["actions"]) == ACTIONS
    assert (meta["algorithm"], meta["shield"], meta["seed"]) == ("bc", "planner", 1)
    assert meta["equality"]["states"] == 40 and meta["equality"]["largest"] < 1e-5
    assert 0 < meta["latency"]["median_ms"] <= meta["latency"]["p99_ms"]
    with pytest.raises(ValueError, match="is not empty"):
        export_run(workdir, exported, "bc", "proco")


def test_a_policy_with_a_memory_acts_as_loaded_over_an_episode(workdir, tmp_path) -> None:
    export_run(workdir, tmp_path / "out", "remembering", "proco", "filter")
    runner = Policy(str(tmp_path / "out"))
    policy = load_policy(workdir, "remembering", "proco", "filter")
    rng = np.random.default_rng(0)
    runner.reset(7)
    carry, last = policy.initial_carry(), None
    for step in range(5):
        obs, told = rng.random(SPEC.size), (0.1 * step, float(step == 3))
        key = np.array([7, step], np.uint32)
        action, carry = policy.act(carry, obs, key, last, *told)
        last = np.asarray(action)
        np.testing.assert_allclose(runner.step(obs, *told)["action"], last, atol=1e-5)
    runner.reset(7)
    assert runner._memory[0] == 0


def test_whether_the_shield_intervened_is_told(workdir, tmp_path) -> None:
    out = tmp_path / "out"
    export_run(workdir, out, "bc", "proco", "filter")
    guarded = Policy(out)
    policy = load_policy(workdir, "bc", "proco", "filter")
    rng, told = np.random.default_rng(1), []
    for i in range(30):
        obs = rng.random(SPEC.size).astype(np.float32)
        guarded.reset(i)
        found = guarded.step(obs)
        told.append(found["intervened"])
        key = np.array([i, 0], np.uint32)
        _, proposed, _ = policy.actor.decide(
            policy.deployed,
            policy.initial_carry(),
            obs[None, None],
            *_told(policy, key),
        )
        same = np.abs(np.asarray(proposed)[0, 0] - found["action"]).max() < 1e-5
        assert found["intervened"] == (not same)
    assert any(told) and not all(told)


def _told(policy, key):
    import jax
    import jax.numpy as jnp

    from proco_jax.deployment.acting import initial_previous

    previous = initial_previous(1, 1, policy.task.action_size)
    return previous, jax.random.wrap_key_data(jnp.asarray(key))[None, None], jnp.ones((1, 1), bool)


def test_what_was_never_logged_is_named(exported) -> None:
    runner = Policy(exported)
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
def test_observations_that_cannot_be_used_are_refused(exported, wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(exported).step(wrong)


def test_a_changed_program_is_refused(exported, tmp_path) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    program = copy / "policy.stablehlo"
    program.write_bytes(program.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ValueError, match="differs from what was exported"):
        Policy(copy)


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
