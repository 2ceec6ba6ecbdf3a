"""Errors and interruptions end a command with one line; experiments are found from any folder."""

import types
from collections.abc import Callable
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from proco_jax import command_line
from proco_jax.config.schema import Config

FLAGS = flags.FLAGS

# Inside ml_collections, which loads a config file that way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


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
    with pytest.raises(SystemExit) as exit, command_line.report_errors():
        raise error
    assert exit.value.code == "error: no episode is left"


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(AssertionError), command_line.report_errors():
        raise AssertionError


def test_debugging_shows_where_an_error_comes_from(verbosity: types.SimpleNamespace) -> None:
    verbosity.verbosity = 1
    with pytest.raises(ValueError, match="left"), command_line.report_errors():
        raise ValueError("no episode is left")


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit, command_line.report_errors():
        raise KeyboardInterrupt
    assert exit.value.code == 130
    assert "interrupted; the same command resumes" in capsys.readouterr().err


@pytest.fixture
def config_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Config]:
    """Parses arguments in an empty folder, and gives the config."""
    monkeypatch.chdir(tmp_path)

    def parse(*arguments: str) -> Config:
        argv = ["main", *arguments]
        # Defining a flag reads the global flags, which the fixture above replaces.
        monkeypatch.setattr(flags, "FLAGS", FLAGS)
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file(
            "config", None, "", flag_values=values, sys_argv=argv
        )
        monkeypatch.setattr(flags, "FLAGS", values)
        command_line.parse(argv)
        return holder.value

    return parse


@pytest.mark.parametrize("file", ["experiments/car_button.py", "car_button.py", "car_button"])
@pytest.mark.parametrize(("variant", "name"), [("", "default"), (":quick", "quick")])
def test_a_shipped_experiment_is_found_from_any_folder(
    config_of: Callable[..., Config], file: str, variant: str, name: str
) -> None:
    for arguments in ([f"--config={file}{variant}"], ["--config", f"{file}{variant}"]):
        config = config_of(*arguments, "--config.seed=7")
        assert (config.experiment, config.variant, config.seed) == ("car_button", name, 7)


OWN = """
from proco_jax.config.schema import Config

def get_config(variant: str = "mine") -> Config:
    return Config(experiment="own", variant=variant)
"""


@pytest.mark.parametrize("file", ["car_button.py", "experiments/car_button.py", "deep/own.py"])
def test_a_file_of_the_user_comes_before_a_shipped_one(
    config_of: Callable[..., Config], tmp_path: Path, file: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(OWN)
    assert config_of(f"--config={file}").experiment == "own"
    assert config_of(f"--config={tmp_path / file}:other").variant == "other"


@pytest.mark.parametrize(
    "file",
    ["nope", "deep/car_button.py", "../car_button.py", "car_button.md", "/car_button.py", ""],
)
def test_a_missing_file_is_reported_with_the_experiments_of_the_package(
    config_of: Callable[..., Config], file: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        config_of(f"--config={file}")
    text = str(exit.value)
    assert f"no file {file!r}" in text and "of the package: ant_velocity, car_button," in text
