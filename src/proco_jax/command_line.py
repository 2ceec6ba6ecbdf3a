"""The commands on an experiment: their flags, and mistakes told in words instead of tracebacks."""

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from proco_jax.config.schema import Config, flatten

INTERRUPTED = 130

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file, with a variant behind a colon: experiments/car_button.py:quick",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; runs/<experiment>-<variant> by default."
)


def run(command: Callable[[Config, Path], None]) -> None:
    """Entry point of a command: calls it with the config and the workdir of the flags."""

    def main(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        if not flags.FLAGS["verbosity"].present:
            # Orbax tells every file that it writes; what concerns the user is a warning.
            logging.set_verbosity(logging.WARNING)
        config = _CONFIG.value
        with told_in_words():
            command(config, Path(_WORKDIR.value or f"runs/{config.experiment}-{config.variant}"))

    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse)


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def parse(argv: Sequence[str]) -> list[str]:
    """Parses absl flags, `--config=<file>[:variant]` and `--config.<setting>` among them.

    Args:
      argv: with the program's name.

    Returns:
      What is no flag, with the program's name.

    Raises:
      SystemExit: with words for standard error, on an unknown flag, setting or
        variant, a value of the wrong type, or a missing file.
    """
    for problem in (*_missing_files(argv), *_unknown_settings(argv)):
        raise SystemExit(f"error: {problem}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise SystemExit(f"error: {_reason(error)}") from None


@contextlib.contextmanager
def told_in_words() -> Iterator[None]:
    """Ends the command with a sentence for what the user can mend; `--verbosity=1` shows where.

    Raises:
      SystemExit: with status 1, or 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if flags.FLAGS.verbosity > 0:
            raise
        raise SystemExit(f"error: {error}") from None


def _missing_files(argv: Sequence[str]) -> Iterator[str]:
    for i, arg in enumerate(argv):
        name, given, value = arg.partition("=")
        if name.lstrip("-") != "config" or not name.startswith("-"):
            continue
        file = (value if given else "".join(argv[i + 1 : i + 2])).partition(":")[0]
        if not Path(file).is_file():
            near = Path(file).parent.glob("*.py") if file else []
            there = ", ".join(sorted(str(path) for path in near)) or "none"
            yield f"--config: no file {file!r}; experiments there: {there}"


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
    """The words of an error, or of the one inside a config file that it reports."""
    # ml_collections puts a whole traceback into the message of such an error.
    inner: BaseException | None = error
    while inner is not None and "Traceback (most recent call last)" in str(inner):
        inner = inner.__context__
    return str(inner or error)
