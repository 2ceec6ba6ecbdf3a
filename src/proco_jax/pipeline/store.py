"""The store of shared artifacts: each is made once and used by every run whose inputs agree.

An artifact is a folder `<store>/<kind>/<hash of its inputs>`. It is made in a folder of its own
beside, under a lock, where a killed maker leaves its checkpoints for the next one, and renamed when
it is complete. `artifact.json` in it holds its inputs, the commit that made it, and the SHA-256 of
its files. Of the code, inputs hold only versions, which are raised by hand where the meaning of an
artifact changes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proco_jax.common.files import digests, locked, write_text

META = "artifact.json"
HASH_LENGTH = 12


class ArtifactError(ValueError):
    """An artifact of the store is damaged."""


def digest(inputs: Any) -> str:
    """The first hex digits of the SHA-256 of JSON data, whatever the order of its keys."""
    text = json.dumps(inputs, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


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
                partial = folder.with_name(f"{folder.name}.partial")
                partial.mkdir(parents=True, exist_ok=True)
                make(partial)
                meta = {"kind": kind, "inputs": inputs, "files": digests(partial)}
                write_text(partial / META, json.dumps(meta, indent=1) + "\n")
                partial.rename(folder)
                return folder
    _check(folder)
    log(f"   {kind}: found in {folder}")
    return folder


def _check(folder: Path) -> None:
    try:
        meta = json.loads((folder / META).read_bytes())
        files = dict(meta["files"])
        if meta["kind"] != folder.parent.name or digest(meta["inputs"]) != folder.name:
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
