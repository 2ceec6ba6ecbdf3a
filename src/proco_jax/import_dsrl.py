"""Converts a DSRL file of logs to a Minari dataset, downloading it if need be.

    python -m proco_jax.import_dsrl --source=SafetyCarButton1
    python -m proco_jax.import_dsrl --source=SafetyCarButton1Gymnasium-v0-250-2656.hdf5

An interrupted download continues with the same command. The download is
removed after its conversion; a file of yours is left alone.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

_SOURCE = flags.DEFINE_string("source", None, "A DSRL HDF5 file, or a task to download it for.")
_TASK = flags.DEFINE_string("task", "", "Task of the file, if its name doesn't say.")
_ROOT = flags.DEFINE_string("root", "", "Folder of datasets; empty for Minari's own.")
_ID = flags.DEFINE_string("dataset_id", "", "Minari id; empty for one made from the source.")
flags.mark_flag_as_required("source")


def main(argv: Sequence[str]) -> None:
    """Imports and says where the dataset lies."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    from proco_jax.data.dsrl import import_dsrl
    from proco_jax.data.minari_store import dataset_root
    from proco_jax.envs.tasks import get_task

    try:
        task = get_task(_TASK.value) if _TASK.value else None
        root = dataset_root(_ROOT.value)
        dataset_id = import_dsrl(str(_SOURCE.value), task, root, dataset_id=_ID.value)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command again continues")
    print(f"use it with --config.data.source=minari:{dataset_id}")


if __name__ == "__main__":
    app.run(main)
