"""What all commands share: the errors that they report in one line, and leftover arguments."""

from collections.abc import Sequence

from absl import app

# Errors of the user, whose message says what to do. All others are defects and show a traceback.
REPORTED_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


def reject_arguments(argv: Sequence[str]) -> None:
    """Refuses what the flags left over of a command line.

    Args:
      argv: with the program's name.

    Raises:
      UsageError: naming the arguments, if there are any.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
