"""The command `python -m proco_jax.knowledge`, as a person calls it."""

import subprocess
import sys
from pathlib import Path

import pytest

from proco_jax.config.schema import Config
from proco_jax.knowledge.__main__ import prompts_text

EXPERIMENT = "experiments/point_goal.py:quick"


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "proco_jax.knowledge", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_prompts_are_shown_and_nothing_is_asked(tmp_path: Path) -> None:
    done = command(
        f"--config={EXPERIMENT}",
        "--show_prompts",
        f"--workdir={tmp_path / 'run'}",
        "--config.knowledge.model=openai/anything",
    )
    assert done.returncode == 0, done.stderr
    assert "0.2 m of the center of a hazard" in done.stdout
    assert "nearest(ring): distance to the nearest object" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_bad_config_is_told_in_words(tmp_path: Path) -> None:
    done = command(f"--config={EXPERIMENT}", "--config.knowledge.labeler=oracle")
    assert done.returncode == 1
    assert "knowledge.labeler: found 'oracle', expected one of ('rule', 'states')" in done.stderr
    assert "Traceback" not in done.stderr


def test_prompts_about_states_are_the_same_every_time() -> None:
    config = Config(task="SafetyCarCircle1")
    config.knowledge.labeler, config.knowledge.batch = "states", 3
    text = prompts_text(config)
    assert text == prompts_text(config)
    assert text.count("\nState ") == 3 and "Two walls stand at x = -1.125 m" in text
    assert "{{" not in text and "{count}" not in text
