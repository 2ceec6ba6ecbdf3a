"""The manifest of a stored dataset: size and SHA-256 of its files and of their blocks.

Storage that returns other bits than were written is found by it: a sample of the blocks is compared
at the start of every run, and all bytes on request (`--config.data.verify=full`).
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.checksums import sealed_json
from proco_jax.common.files import write_text
from proco_jax.data.checks import DataError

NAME = "manifest.json"
BLOCK = 1 << 20
# Blocks of each file that are compared where not all are. Files up to this size are read in full.
SAMPLED = 16


def write_manifest(folder: Path) -> None:
    """Writes the manifest of all files below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)
    entries = {path.relative_to(folder).as_posix(): _entry(path) for path in files}
    write_text(folder / NAME, sealed_json({"block": BLOCK, "files": entries}))


def update_manifest(folder: Path, name: str) -> None:
    """Replaces the entry of one file, which was changed on purpose, if there is a manifest."""
    if (folder / NAME).exists():
        content = _read(folder)
        content["files"][name] = _entry(folder / name)
        write_text(folder / NAME, sealed_json(content))


def check_manifest(
    folder: Path, full: bool, log: Callable[[str], None], rng: np.random.Generator | None = None
) -> None:
    """Compares the files of a dataset with its manifest.

    Args:
      folder: of the dataset. Without a manifest nothing is compared, which is logged.
      full: compare all bytes; otherwise the sizes, and the first, the last and a random sample of
        the other blocks of each file.
      log: takes lines of text for the user.
      rng: draws the sample; None for a new one at every call.

    Raises:
      DataError: if a file is missing or differs, or the manifest is damaged.
    """
    if not (folder / NAME).exists():
        log(
            f"{folder} has no {NAME}: it was written by another program or an older version, so "
            "bits that changed in storage cannot be detected"
        )
        return
    rng = rng or np.random.default_rng()
    for name, entry in _read(folder)["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing; {_remedy(folder)}")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise DataError(
                f"{path} is damaged or truncated: found {size:,} bytes, expected "
                f"{entry['bytes']:,}; {_remedy(folder)}"
            )
        for block in _chosen(len(entry["blocks"]), full, rng):
            if _block_digest(path, block) != entry["blocks"][block]:
                raise DataError(
                    f"{path} is damaged: its bytes from {block * BLOCK:,} on differ from what was "
                    f"saved; {_remedy(folder)}"
                )


def _entry(path: Path) -> dict[str, Any]:
    count = -(-path.stat().st_size // BLOCK)
    return {
        "bytes": path.stat().st_size,
        "blocks": [_block_digest(path, block) for block in range(count)],
    }


def _block_digest(path: Path, block: int) -> str:
    with open(path, "rb") as file:
        file.seek(block * BLOCK)
        return hashlib.sha256(file.read(BLOCK)).hexdigest()


def _chosen(count: int, full: bool, rng: np.random.Generator) -> list[int]:
    if full or count <= SAMPLED:
        return list(range(count))
    inner = 1 + rng.choice(count - 2, SAMPLED - 2, replace=False)
    return [0, *sorted(inner.tolist()), count - 1]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    try:
        text = path.read_bytes().decode()
        content = dict(json.loads(text))
        content.pop("sha256")
        if text != sealed_json(content):
            raise ValueError("it differs from what was saved")
        if content["block"] != BLOCK:
            raise ValueError(f"blocks of {content['block']} bytes, expected {BLOCK}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"the manifest {path} is damaged ({error}); {_remedy(folder)}, or remove the manifest "
            "to use the files without it"
        ) from error
    return content


def _remedy(folder: Path) -> str:
    return (
        f"restore the file from a copy, or remove {folder} and run the command again that made the "
        "dataset (a run with --config.data.source=collect or dsrl:... makes its own)"
    )
