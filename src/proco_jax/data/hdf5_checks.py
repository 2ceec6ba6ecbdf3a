"""Guarded access to HDF5 files of unknown origin: everything is checked before a value is read.

An HDF5 file can refer to other files (links, external storage, virtual datasets), to itself in
circles, and declare arrays far larger than what it holds. Objects are therefore looked up by their
name, link by link, and only arrays of real numbers whose values lie in the file itself are opened.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proco_jax.data.checks import REAL_KINDS, DataError

# Bytes per stored byte: what gzip reaches on constant data is about 1,030.
LARGEST_COMPRESSION = 1100
# Stored nowhere: arrays that were never written and read as zeros, e.g. flags.
UNSTORED = 64 << 10


class DamagedFile(DataError):
    """A file that HDF5 cannot read."""


@contextlib.contextmanager
def open_hdf5(path: Path, remedy: str) -> Iterator[Any]:
    """Opens a file for reading; errors of HDF5 inside of the context become `DamagedFile`.

    Args:
      path: of the file.
      remedy: what to do if it is damaged.

    Raises:
      DamagedFile: if the file, or what is read of it, is damaged.
      DataError: if there is no such file; other errors of this kind pass.
    """
    import h5py

    if not path.is_file():
        raise DataError(f"no file {path}; {remedy}")
    try:
        opened = h5py.File(path, "r")
    except Exception as error:
        raise DamagedFile(
            f"{path} is no whole HDF5 file (damaged or truncated at {path.stat().st_size:,} "
            f"bytes: {_reason(error)}); {remedy}"
        ) from error
    with damage_explained(str(path), remedy), opened as file:
        yield file


@contextlib.contextmanager
def damage_explained(where: str, remedy: str) -> Iterator[None]:
    """Turns errors of HDF5 into words.

    Raises:
      DamagedFile: for any error but a `DataError`.
    """
    try:
        yield
    except DataError:
        raise
    # On damaged structures h5py raises nearly every kind of error, also SystemError.
    except Exception as error:
        raise DamagedFile(
            f"{where}: the file is damaged or truncated ({_reason(error)}); {remedy}"
        ) from error


def names(group: Any) -> list[str]:
    """The names in a group; no link is followed."""
    return sorted(group.keys())


def find_group(parent: Any, name: str, where: str) -> Any:
    """A group that lies in this file.

    Raises:
      KeyError: if there is no such name.
      DataError: if it is a link or no group.
    """
    import h5py

    found = _look_up(parent, name, where)
    if not isinstance(found, h5py.Group):
        raise DataError(f"{where}: {name} is a {type(found).__name__.lower()}, expected a group")
    return found


def find_array(parent: Any, name: str, where: str) -> Any:
    """An array of real numbers, not read yet, whose values lie in this file.

    Raises:
      KeyError: if there is no such name.
      DataError: if it is a link, a group, stored in other files, of another type, or declared
        larger than what the file holds or the machine's memory.
    """
    import h5py

    array = _look_up(parent, name, where)
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
        raise DataError(
            f"{where}: {name} is a group, or an array stored in other files; expected an "
            "array in the file itself"
        )
    if array.dtype.kind not in REAL_KINDS:
        raise DataError(f"{where}: {name} has the type {array.dtype}, expected real numbers")
    if array.shape is None:
        raise DataError(f"{where}: {name} is empty, expected an array")
    declared = math.prod(array.shape) * array.dtype.itemsize
    stored = array.id.get_storage_size()
    if declared > LARGEST_COMPRESSION * (stored + UNSTORED):
        raise DataError(
            f"{where}: {name} declares {math.prod(array.shape):,} values, more than the "
            f"{stored:,} bytes that are stored of it can hold; the file is damaged"
        )
    if array.chunks is not None and math.prod(array.chunks) * array.dtype.itemsize > _memory() // 4:
        raise DataError(
            f"{where}: {name} is stored in chunks of {array.chunks}, each larger than a quarter of "
            "this machine's memory; store it in smaller chunks"
        )
    if declared > _memory():
        raise DataError(
            f"{where}: {name} has {declared:,} bytes, more than this machine's memory "
            f"({_memory():,} bytes); split the data"
        )
    return array


def _look_up(parent: Any, name: str, where: str) -> Any:
    import h5py

    # Before the object is opened: a link may lead to another file, or to itself.
    link = parent.get(name, getlink=True)
    if link is None:
        raise KeyError(name)
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{where}: {name} is a link, expected an object in the file itself")
    return parent[name]


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reason(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
