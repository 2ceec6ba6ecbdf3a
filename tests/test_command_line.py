"""Mistakes and interruptions are told in words; see test_config.py for the flags themselves."""

import types

import pytest
from absl import flags

from proco_jax import command_line


@pytest.fixture(autouse=True)
def verbosity(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Flags as parsed by a command."""
    values = types.SimpleNamespace(verbosity=0)
    monkeypatch.setattr(flags, "FLAGS", values)
    return values


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no episode is left"),
        FileNotFoundError("no episode is left"),
        FloatingPointError("no episode is left"),
        ModuleNotFoundError("no episode is left"),
    ],
)
def test_what_the_user_can_mend_ends_with_one_sentence(error: Exception) -> None:
    with pytest.raises(SystemExit) as exit, command_line.told_in_words():
        raise error
    assert exit.value.code == "error: no episode is left"


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(AssertionError), command_line.told_in_words():
        raise AssertionError


def test_debugging_shows_where_an_error_comes_from(verbosity: types.SimpleNamespace) -> None:
    verbosity.verbosity = 1
    with pytest.raises(ValueError, match="left"), command_line.told_in_words():
        raise ValueError("no episode is left")


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit, command_line.told_in_words():
        raise KeyboardInterrupt
    assert exit.value.code == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
