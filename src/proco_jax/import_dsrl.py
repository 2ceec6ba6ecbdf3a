"""Converts a DSRL file of logs, downloaded if necessary, to a Minari dataset.

    python -m proco_jax.import_dsrl --source=SafetyCarButton1
    python -m proco_jax.import_dsrl --source=SafetyCarButton1Gymnasium-v0-250-2656.hdf5

A broken connection is resumed; after an interruption, the same command starts
the download again. A downloaded file is removed after its conversion, a local
file is kept.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from proco_jax.common.commands import begin_command

_SOURCE = flags.DEFINE_string(
    "source", None, "Path of a DSRL HDF5 file, or a task whose file is downloaded."
)
_TASK = flags.DEFINE_string("task", "", "Task of the file, if its name does not contain it.")
_ROOT = flags.DEFINE_string("root", "", "Folder of datasets; empty for Minari's default.")
_ID = flags.DEFINE_string("dataset_id", "", "Minari id; empty for one derived from the source.")
flags.mark_flag_as_required("source")


def main(argv: Sequence[str]) -> None:
    """Imports the file and prints the setting that selects the dataset."""
    begin_command(argv)
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
        sys.exit("interrupted; run the same command again")
    print(f"use it with --config.data.source=minari:{dataset_id}")


if __name__ == "__main__":
    app.run(main)
