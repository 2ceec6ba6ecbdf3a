"""The training of behavior policies as a command: refusals, a small training, and its file."""

import dataclasses
import subprocess
import sys

import pytest

from proco_jax.behaviors.command import TrainingSettings, train_behaviors
from proco_jax.behaviors.ppo import PPOSettings
from proco_jax.envs.behavior_file import load_policies
from proco_jax.envs.tasks import get_task

CHEETAH = get_task("HalfCheetahVelocity")
SETTINGS = TrainingSettings(planar_steps=0, steps=4000, worlds=4, workers=1, seed=0, episodes=1)
SMALL = PPOSettings(hidden=(8,), critic_hidden=(8,), epochs=1, minibatches=2)


@pytest.mark.parametrize(
    ("changes", "out", "problem"),
    [
        ({}, "policies.zip", r"--out: found .*policies.zip, expected a file that ends in .npz"),
        (
            {"planar_steps": 10},
            "a.npz",
            r"--planar_steps: found 10, expected 0: there is no planar",
        ),
        ({"steps": 0}, "a.npz", r"found 0 for both, expected a training"),
    ],
)
def test_settings_without_sense_are_refused_before_any_work(tmp_path, changes, out, problem):
    with pytest.raises(ValueError, match=problem):
        train_behaviors(
            CHEETAH, dataclasses.replace(SETTINGS, **changes), tmp_path / out, "", print
        )
    assert not list(tmp_path.iterdir())


def test_worlds_whose_steps_cannot_be_divided_are_refused(tmp_path):
    settings = dataclasses.replace(SETTINGS, worlds=50)
    with pytest.raises(ValueError, match="--worlds: found 50, expected a multiple of 4"):
        train_behaviors(get_task("SafetyPointGoal1"), settings, tmp_path / "a.npz", "", print)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_keys")
def test_a_training_writes_its_file_once(tmp_path):
    out = tmp_path / "cheetah.npz"
    lines: list[str] = []
    train_behaviors(CHEETAH, SETTINGS, out, "the command", lines.append, SMALL)
    assert lines[-1] == f"wrote {out}"
    header = load_policies(out, CHEETAH).header
    assert header["command"] == "the command" and header["training"]["steps"] == 4000
    assert len(header["frontier"]) == 6 and header["snapshots"][-1] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == [".cheetah.npz.lock", "cheetah.npz"]
    lines.clear()
    train_behaviors(CHEETAH, SETTINGS, out, "the command", lines.append, SMALL)
    assert lines == [f"found {out}"]
    other = dataclasses.replace(SETTINGS, seed=1)
    with pytest.raises(ValueError, match=r"of another training .* choose another --out"):
        train_behaviors(CHEETAH, other, out, "", print, SMALL)


@pytest.mark.slow
def test_wrong_flags_end_with_one_line():
    for flags, problem in (
        (["--task=PointGool1"], "did you mean 'SafetyPointGoal1'?"),
        (["--task=AntVelocity", "--planar_steps=5", "--out=x.npz"], "there is no planar model"),
        (["--task=PointGoal1", "--worlds=0"], "worlds"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "proco_jax.behaviors", *flags],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert problem in done.stderr
