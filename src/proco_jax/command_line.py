"""Flags of the commands that run an experiment, and one-line error messages for the user."""

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from proco_jax.common.commands import REPORTED_ERRORS, begin_command
from proco_jax.common.shipped import find_shipped, shipped_experiments
from proco_jax.config.schema import Config, flatten

INTERRUPTED = 130

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file with an optional variant: experiments/car_button.py:quick. A file that does "
    "not exist is looked up among the shipped experiments, also by its name: car_button:quick.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; runs/<experiment>-<variant> by default."
)
_STORE = flags.DEFINE_string(
    "store", None, "Folder of the artifacts that runs share; `store` beside the workdir by default."
)


def run(command: Callable[[Config, Path], None]) -> None:
    """Entry point of a command: calls it with the config and the workdir of the flags."""

    def main(argv: Sequence[str]) -> None:
        begin_command(argv)
        config = _CONFIG.value
        # Importing JAX takes seconds; wrong flags are reported before.
        from proco_jax.common.compilation_cache import use_compilation_cache

        with report_errors():
            use_compilation_cache()
            if config.system.file:
                from proco_jax.system.description import with_system

                config = with_system(config)
            command(config, Path(_WORKDIR.value or f"runs/{config.experiment}-{config.variant}"))

    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse)


def store() -> Path | None:
    """The folder of shared artifacts that the flags name; None for the default."""
    return Path(_STORE.value) if _STORE.value else None


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def parse(argv: Sequence[str]) -> list[str]:
    """Parses absl flags, `--config=<file>[:variant]` and `--config.<setting>` among them.

    Args:
      argv: with the program's name.

    Returns:
      The arguments that are no flags, with the program's name.

    Raises:
      SystemExit: with a message for standard error, on an unknown flag, setting or variant, a
        value of the wrong type, or a missing file.
    """
    argv = _with_found_files(argv)
    for problem in (*_missing_files(argv), *_unknown_settings(argv)):
        raise SystemExit(f"error: {problem}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise SystemExit(f"error: {_reason(error)}") from None


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Ends the command with one line for errors of the user; `--verbosity=1` shows tracebacks.

    Raises:
      SystemExit: with status 1, or 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except REPORTED_ERRORS as error:
        if flags.FLAGS.verbosity > 0:
            raise
        raise SystemExit(f"error: {error}") from None


def _with_found_files(argv: Sequence[str]) -> list[str]:
    """The arguments, with `--config` naming an existing file wherever one is found.

    A path that does not exist relative to the current folder is looked up among the shipped
    experiments: `experiments/car_button.py`, `car_button.py` and `car_button` name the same file.
    """
    found = list(argv)
    for i, file, variant in _config_files(argv):
        path = Path(file)
        shipped = shipped_experiments() / f"{path.stem}.py"
        inside = path.parent in (Path(), Path("experiments")) and path.suffix in ("", ".py")
        if not inside:
            shipped = find_shipped(path)
        if file and not path.is_file() and shipped.is_file():
            prefix = "--config=" if "=" in argv[i] else ""
            found[i] = f"{prefix}{shipped}{variant}"
    return found


def _missing_files(argv: Sequence[str]) -> Iterator[str]:
    for _, file, _ in _config_files(argv):
        if not Path(file).is_file():
            near = Path(file).parent.glob("*.py") if file else []
            there = ", ".join(sorted(str(path) for path in near)) or "none"
            shipped = ", ".join(sorted(path.stem for path in shipped_experiments().glob("*.py")))
            yield (
                f"--config: no file {file!r}; experiments there: {there}; experiments of the"
                f" package: {shipped}"
            )


def _config_files(argv: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Index of the argument that holds the file, the file, and its variant with the colon."""
    for i, arg in enumerate(argv):
        name, given, value = arg.partition("=")
        if name not in ("-config", "--config"):
            continue
        file, colon, variant = (value if given else "".join(argv[i + 1 : i + 2])).partition(":")
        yield (i if given else i + 1), file, colon + variant


def _unknown_settings(argv: Sequence[str]) -> Iterator[str]:
    known = flatten(Config())
    for arg in argv:
        if found := re.match(r"--?(?:no)?config\.([^=]*)", arg):
            name = found.group(1)
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                inside = [other for other in known if other.startswith(f"{name}.")]
                hint = f"; did you mean {near[0]}?" if near else ""
                hint = f"; its settings: {', '.join(inside)}" if inside else hint
                yield f"--config.{name}: there is no such setting{hint}"


def _reason(error: BaseException) -> str:
    """The message of an error, or of the error inside a config file that it reports."""
    # ml_collections puts a whole traceback into the message of such an error.
    inner: BaseException | None = error
    while inner is not None and "Traceback (most recent call last)" in str(inner):
        inner = inner.__context__
    return str(inner or error)
