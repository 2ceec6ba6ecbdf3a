"""Hostile and damaged HDF5 files, as Minari datasets and as DSRL files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.fault_arrays import same_arrays
from benchmarks.fault_outcomes import Fault, Found, Outcome, damaged
from proco_jax.data.dsrl import KEYS, read_dsrl
from proco_jax.data.minari_store import read_dataset
from proco_jax.data.minari_writer import Origin, write_dataset
from proco_jax.envs.tasks import get_task
from proco_jax.types import Episode

ID = "toys/hostile-v0"
STEPS, EPISODES = 12, 3
MINARI = ("observations", "actions", "rewards", "terminations", "truncations", "infos/cost")


class HostileFiles:
    """Makes two small whole files, and spoils copies of them.

    Args:
      scratch: folder for the files.
    """

    def __init__(self, scratch: Path) -> None:
        self._task = get_task("SafetyPointGoal1")
        self._root, self._work = scratch / "whole", scratch / "hostile"
        size = self._task.spec.size
        episodes = [_episode(seed, size, self._task.action_size) for seed in range(EPISODES)]
        origin = Origin(
            self._task.name, self._task.env_id, self._task.spec, "collect", {}, "toy", "A toy.", {}
        )
        write_dataset(self._root, ID, episodes, None, origin)
        # As of strangers, whose files have no manifest of this package.
        (self._root / ID / "manifest.json").unlink()
        self._dsrl = self._root / self._task.dsrl_file
        _write_dsrl(self._dsrl, episodes)
        self._clean = {"minari": self._read("minari", self._root)}
        self._clean["dsrl"] = self._read("dsrl", self._root)

    def fault(self, rng: np.random.Generator) -> Fault:
        """One spoiled file: what was done, the check, and what an error must name."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._root, self._work)
        kind = str(rng.choice(["minari", "dsrl"]))
        path = self._work / self._task.dsrl_file
        if kind == "minari":
            path = self._work / ID / "data" / "main_data.hdf5"
        way = rng.random()
        # What changes numbers and nothing else is a file of other numbers.
        legitimate = False
        if way < 0.3:
            content, words = damaged(
                path.read_bytes(), str(rng.choice(["flip", "flip", "zero"])), rng
            )
            path.write_bytes(content)
            legitimate = True
        elif way < 0.4 and kind == "minari":
            words = _spoil_metadata(path.with_name("metadata.json"), rng)
        else:
            words = _spoil_arrays(path, kind, rng)

        def check() -> Found:
            found = self._read(kind, self._work)
            if same_arrays(found, self._clean[kind]):
                return Outcome.HARMLESS, ""
            return (Outcome.OTHER if legitimate else Outcome.SILENT), "other episodes"

        return f"{kind}: {words}", check, (ID, path.name)

    def _read(self, kind: str, root: Path) -> list[Episode]:
        if kind == "minari":
            return read_dataset(root, ID).episodes
        return list(read_dsrl(root / self._task.dsrl_file, self._task))


def _episode(seed: int, size: int, actions: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        obs=rng.normal(size=(STEPS + 1, size)).astype(np.float32),
        action=rng.uniform(-1, 1, (STEPS, actions)).astype(np.float32),
        reward=rng.normal(size=STEPS).astype(np.float32),
        cost=np.zeros(STEPS, np.float32),
        terminated=False,
    )


def _write_dsrl(path: Path, episodes: list[Episode]) -> None:
    ends = np.tile(np.arange(STEPS) == STEPS - 1, len(episodes))
    content = {
        "observations": np.concatenate([e.obs[:-1] for e in episodes]),
        "next_observations": np.concatenate([e.obs[1:] for e in episodes]),
        "actions": np.concatenate([e.action for e in episodes]),
        "rewards": np.concatenate([e.reward for e in episodes]),
        "costs": np.concatenate([e.cost for e in episodes]),
        "terminals": np.zeros_like(ends),
        "timeouts": ends,
    }
    with h5py.File(path, "w") as file:
        for key in KEYS:
            file[key] = content[key]


def _spoil_metadata(path: Path, rng: np.random.Generator) -> str:
    metadata = json.loads(path.read_text())
    names = [name for name in metadata if name not in ("author", "description", "code_permalink")]
    name = str(rng.choice(sorted(names)))
    values: list[Any] = [None, -1, 1e308, 10**30, "", "x" * 10_000, [], {}, True, {"a": [{}]}]
    metadata[name] = values[int(rng.integers(len(values)))]
    path.write_text(json.dumps(metadata))
    return f"metadata {name}={str(metadata[name])[:40]}"


def _spoil_arrays(path: Path, kind: str, rng: np.random.Generator) -> str:
    """Replaces one array, or a group, by something hostile."""
    names = list(KEYS) if kind == "dsrl" else [f"episode_1/{name}" for name in MINARI]
    whole = str(rng.choice(names))
    spoil = str(rng.choice(sorted(SPOILS)))
    if kind == "minari" and rng.random() < 0.15:
        whole, spoil = (
            str(rng.choice(["episode_1", "episode_1/infos"])),
            str(rng.choice(_OF_GROUPS)),
        )
    with h5py.File(path, "a") as file:
        group, _, name = whole.rpartition("/")
        parent: Any = file[group] if group else file
        old = parent[name][()] if isinstance(parent[name], h5py.Dataset) else None
        del parent[name]
        SPOILS[spoil](parent, name, old, path)
    return f"{whole}: {spoil}"


def _soft(parent: Any, name: str, old: Any, path: Path) -> None:
    parent[name] = h5py.SoftLink("/costs" if "costs" in parent.file else "/episode_0/rewards")


def _loop(parent: Any, name: str, old: Any, path: Path) -> None:
    parent[name] = h5py.SoftLink(f"{parent.name.rstrip('/')}/{name}")


def _external_link(parent: Any, name: str, old: Any, path: Path) -> None:
    parent[name] = h5py.ExternalLink("/etc/passwd", "/x")


def _own_file_link(parent: Any, name: str, old: Any, path: Path) -> None:
    parent[name] = h5py.ExternalLink(path.name, "/")


def _external_storage(parent: Any, name: str, old: Any, path: Path) -> None:
    shape = (3,) if old is None else old.shape
    parent.create_dataset(name, shape, "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _virtual(parent: Any, name: str, old: Any, path: Path) -> None:
    shape = (3,) if old is None else old.shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape)
    parent.create_virtual_dataset(name, layout)


def _virtual_of_itself(parent: Any, name: str, old: Any, path: Path) -> None:
    shape = (3,) if old is None else old.shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource(".", f"{parent.name}/{name}", shape)
    parent.create_virtual_dataset(name, layout)


def _huge(rows: int, chunk: int, filled: bool) -> Callable[..., None]:
    def spoil(parent: Any, name: str, old: Any, path: Path) -> None:
        tail = () if old is None else old.shape[1:]
        more = {"fillvalue": 1} if filled else {}
        parent.create_dataset(name, (rows, *tail), "f4", chunks=(chunk, *tail), **more)

    return spoil


def _bomb(parent: Any, name: str, old: Any, path: Path) -> None:
    """Half a gigabyte of zeros in half a megabyte."""
    made = parent.create_dataset(name, (130_000_000,), "f4", chunks=(1_000_000,), compression=9)
    made[:1_000_000] = 0


def _renamed(values: Callable[[Any], Any]) -> Callable[..., None]:
    def spoil(parent: Any, name: str, old: Any, path: Path) -> None:
        parent[name] = values(np.zeros(3, np.float32) if old is None else old)

    return spoil


def _group(parent: Any, name: str, old: Any, path: Path) -> None:
    parent.create_group(name)


def _root_again(parent: Any, name: str, old: Any, path: Path) -> None:
    parent[name] = parent.file["/"]


def _named_type(parent: Any, name: str, old: Any, path: Path) -> None:
    parent[name] = np.dtype("f8")


def _absent(parent: Any, name: str, old: Any, path: Path) -> None:
    pass


def _nothing_stored(parent: Any, name: str, old: Any, path: Path) -> None:
    """Never written, so that every value is the file's fill value."""
    parent.create_dataset(name, (3,) if old is None else old.shape, "f4", fillvalue=np.nan)


def _text(value: Any, kind: Any) -> Callable[..., None]:
    return _renamed(lambda x: np.full(x.shape, value, kind))


def _odd(value: float) -> Callable[..., None]:
    def values(x: Any) -> Any:
        spoiled = np.array(x, np.float64)
        spoiled.flat[spoiled.size // 2] = value
        return spoiled

    return _renamed(values)


def _stored(dtype: Any, **how: Any) -> Callable[..., None]:
    """The same numbers, stored in another way."""

    def spoil(parent: Any, name: str, old: Any, path: Path) -> None:
        old = np.zeros(3, np.float32) if old is None else old
        parent.create_dataset(name, data=old.astype(dtype), **how)

    return spoil


SPOILS: dict[str, Callable[..., None]] = {
    "soft link": _soft,
    "link loop": _loop,
    "external link": _external_link,
    "external link to its own file": _own_file_link,
    "external storage": _external_storage,
    "virtual dataset": _virtual,
    "virtual dataset of itself": _virtual_of_itself,
    "1e12 rows": _huge(10**12, 1000, False),
    "1e9 rows": _huge(10**9, 1000, True),
    "1e7 rows, one huge chunk": _huge(10**7, 10**7, False),
    "compression bomb": _bomb,
    "bytes": _text(b"1", "S1"),
    "text": _renamed(lambda x: np.full(x.shape, "1", h5py.string_dtype())),
    "complex": _renamed(lambda x: x.astype(np.complex128)),
    "compound": _renamed(lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "i2")])),
    "opaque": _renamed(lambda x: np.zeros(x.shape, "V4")),
    "lists of variable length": _renamed(
        lambda x: np.array([np.zeros(i + 1) for i in range(len(x))], object).astype(
            h5py.vlen_dtype(np.float64)
        )
    ),
    "references": lambda parent, name, old, path: parent.create_dataset(
        name, (3,) if old is None else old.shape, h5py.ref_dtype
    ),
    "vectors in each element": _renamed(lambda x: np.zeros(x.shape, [("", "f4", (2,))])),
    "empty": lambda parent, name, old, path: parent.__setitem__(name, h5py.Empty("f4")),
    "scalar": _renamed(lambda x: np.float32(0)),
    "no rows": _renamed(lambda x: x[:0]),
    "one row less": _renamed(lambda x: x[:-1]),
    "one axis more": _renamed(lambda x: x[..., None]),
    "group": _group,
    "the root again": _root_again,
    "a named type": _named_type,
    "absent": _absent,
    "nothing stored": _nothing_stored,
    "NaN": _odd(np.nan),
    "infinite": _odd(np.inf),
    "beyond float32": _odd(1e300),
    "same, big-endian": _stored(">f8"),
    "same, float64": _stored("f8"),
    "same, compressed": _stored("f4", compression="gzip", shuffle=True, fletcher32=True),
    "same, in chunks of one row": _stored("f4", chunks=True, maxshape=None),
}
_OF_GROUPS = sorted(
    {"soft link", "link loop", "external link", "external storage", "virtual dataset", "absent"}
    | {"external link to its own file", "scalar", "empty", "a named type"}
)
