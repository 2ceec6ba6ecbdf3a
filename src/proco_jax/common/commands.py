"""What all commands share: the errors that they report in one line, and how they begin."""

from collections.abc import Sequence

from absl import app, flags, logging

# Errors of the user, whose message says what to do. All others are defects and show a traceback.
REPORTED_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


def begin_command(argv: Sequence[str]) -> None:
    """Refuses what the flags left over of a command line, and hides what libraries tell.

    Orbax tells every file that it reads and writes; what concerns the user is a warning. With
    `--verbosity` all is shown.

    Args:
      argv: with the program's name.

    Raises:
      UsageError: naming the arguments, if there are any.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
