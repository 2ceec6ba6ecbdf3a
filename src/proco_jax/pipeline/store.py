"""The store of shared artifacts: each is made once and used by every run whose inputs agree.

An artifact is a folder `<store>/<kind>/<hash of its inputs>`. It is made in a folder of its own
beside, under a lock, where a killed maker leaves its checkpoints for the next one, and renamed when
it is complete. `artifact.json` in it holds its inputs, the commit that made it, and the SHA-256 of
its files. Of the code, inputs hold only versions, which are raised by hand where the meaning of an
artifact changes.

A store may be the local part of one in an object store that several machines share (`attach`). An
artifact that is not here is then copied from there, and one that was made here is put there.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proco_jax.common.files import digests, locked, write_text
from proco_jax.common.object_store import ObjectStore

META = "artifact.json"
_ADDRESS = "address.txt"
HASH_LENGTH = 12


class ArtifactError(ValueError):
    """An artifact of the store is damaged."""


def digest(inputs: Any) -> str:
    """The first hex digits of the SHA-256 of JSON data, whatever the order of its keys."""
    text = json.dumps(inputs, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def attach(store: Path, address: str) -> None:
    """Makes a folder the local part of a store in an object store."""
    if attached(store) != ObjectStore(address):
        write_text(store / _ADDRESS, address + "\n")


def attached(store: Path) -> ObjectStore | None:
    """The object store that a store is the local part of, if any."""
    path = store / _ADDRESS
    return ObjectStore(path.read_text().strip()) if path.exists() else None


def has_artifact(
    store: Path, kind: str, inputs: Mapping[str, Any], log: Callable[[str], None]
) -> bool:
    """Whether an artifact has been made, here or on another machine; it is then here."""
    folder = store / kind / digest(inputs)
    if (folder / META).exists():
        return True
    with locked(folder.with_name(f"{folder.name}.lock"), log, kind):
        return (folder / META).exists() or _fetch(store, folder, log)


def artifact(
    store: Path,
    kind: str,
    inputs: Mapping[str, Any],
    make: Callable[[Path], None],
    log: Callable[[str], None],
) -> Path:
    """The folder of an artifact, which is made if it is not there.

    Args:
      store: root of the store.
      kind: e.g. `dynamics`.
      inputs: JSON data: all that the artifact depends on, hashes of other artifacts among them.
      make: fills a folder; one that a killed maker left may hold its checkpoints.
      log: takes lines for the user.

    Raises:
      ArtifactError: if a file of the artifact was changed.
    """
    folder = store / kind / digest(inputs)
    if not (folder / META).exists():
        with locked(folder.with_name(f"{folder.name}.lock"), log, kind):
            # Another process may have made it while this one waited.
            if not (folder / META).exists():
                # A folder without description is no artifact and would block the rename.
                shutil.rmtree(folder, ignore_errors=True)
                if _fetch(store, folder, log):
                    return folder
                partial = folder.with_name(f"{folder.name}.partial")
                partial.mkdir(parents=True, exist_ok=True)
                # A maker may have been killed between its description and the rename.
                (partial / META).unlink(missing_ok=True)
                make(partial)
                meta = {"kind": kind, "inputs": inputs, "files": digests(partial)}
                write_text(partial / META, json.dumps(meta, indent=1) + "\n")
                partial.rename(folder)
                _publish(store, folder)
                return folder
    _check(folder)
    # A process may have been killed before it put the artifact there.
    _publish(store, folder)
    log(f"   {kind}: found in {folder}")
    return folder


def _fetch(store: Path, folder: Path, log: Callable[[str], None]) -> bool:
    """Copies an artifact from the object store, if it is there; its files are checked."""
    remote = attached(store)
    if remote is None:
        return False
    name = f"{folder.parent.name}/{folder.name}"
    with remote.folder(name, folder.parent) as copy:
        if copy is None:
            return False
        try:
            _check(copy / folder.name, folder.parent.name)
        except ArtifactError as error:
            raise ArtifactError(
                f"{remote.address}/{name}: damaged ({error}); remove that object, then the same "
                "command makes it anew"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        (copy / folder.name).rename(folder)
    log(f"   {folder.parent.name}: copied from {remote.address}")
    return True


def _publish(store: Path, folder: Path) -> None:
    """Puts an artifact into the object store, unless another machine has done so."""
    remote, name = attached(store), f"{folder.parent.name}/{folder.name}"
    if remote is not None and not remote.has_folder(name):
        remote.put_folder(name, folder.parent, [folder])


def _check(folder: Path, kind: str = "") -> None:
    """Compares an artifact with its description; a copy is not in the folder of its kind."""
    try:
        meta = json.loads((folder / META).read_bytes())
        files = dict(meta["files"])
        if meta["kind"] != (kind or folder.parent.name) or digest(meta["inputs"]) != folder.name:
            raise ValueError("its inputs are not those of the folder")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(_advice(folder, f"{META} is damaged")) from error
    found = digests(folder)
    found.pop(META)
    for name in sorted({*files, *found}):
        if files.get(name) != found.get(name):
            raise ArtifactError(_advice(folder, f"{name} differs from what was saved"))


def _advice(folder: Path, problem: str) -> str:
    return f"{folder}: {problem}; remove that folder, then the same command makes it anew"
