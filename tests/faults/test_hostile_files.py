"""HDF5 files and metadata of strangers: refused in words, and nothing of them is executed."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_toys import ORIGIN, STEPS, TASK, make_episode, same_episodes

from proco_jax.data.checks import DataError
from proco_jax.data.description import describe
from proco_jax.data.dsrl import KEYS, read_dsrl
from proco_jax.data.hdf5_checks import find_array
from proco_jax.data.minari_store import read_dataset
from proco_jax.data.minari_writer import write_dataset

ID = "toys/logs-v0"
EPISODE = "episode_1"
ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations", "infos/cost")
Spoil = Callable[[Any, str, Path], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    write_dataset(root, ID, [make_episode(i) for i in range(3)], None, ORIGIN)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A dataset of a stranger: without a manifest of ours."""
    shutil.copytree(written, tmp_path / "root")
    (tmp_path / "root" / ID / "manifest.json").unlink(missing_ok=True)
    return tmp_path / "root"


def spoil_array(root: Path, name: str, spoil: Spoil) -> None:
    with h5py.File(root / ID / "data" / "main_data.hdf5", "a") as file:
        *groups, last = f"{EPISODE}/{name}".split("/")
        parent: Any = file["/".join(groups)]
        spoil(parent, last, root)


def edit_metadata(root: Path, **changes: Any) -> None:
    path = root / ID / "data" / "metadata.json"
    kept = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def soft_link(parent: Any, name: str, root: Path) -> None:
    target = f"/episode_0/{'infos/' if name == 'cost' else ''}{name}"
    del parent[name]
    parent[name] = h5py.SoftLink(target)


def link_to_itself(parent: Any, name: str, root: Path) -> None:
    del parent[name]
    parent[name] = h5py.SoftLink(f"{parent.name}/{name}")


def external_link(parent: Any, name: str, root: Path) -> None:
    del parent[name]
    with h5py.File(root / "other.hdf5", "w") as other:
        other["x"] = np.zeros(STEPS)
    parent[name] = h5py.ExternalLink(str(root / "other.hdf5"), "x")


def external_storage(parent: Any, name: str, root: Path) -> None:
    shape = parent[name].shape
    del parent[name]
    (root / "secret").write_bytes(bytes(int(np.prod(shape)) * 4))
    external = [(str(root / "secret"), 0, h5py.h5f.UNLIMITED)]
    parent.create_dataset(name, shape, "f4", external=external)


def virtual(parent: Any, name: str, root: Path) -> None:
    shape = parent[name].shape
    del parent[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource(str(root / "secret"), "x", shape)
    parent.create_virtual_dataset(name, layout)


def huge(parent: Any, name: str, root: Path) -> None:
    tail = parent[name].shape[1:]
    del parent[name]
    parent.create_dataset(name, (10**12, *tail), "f4", chunks=(1000, *tail))


def huge_chunk(parent: Any, name: str, root: Path) -> None:
    tail = parent[name].shape[1:]
    del parent[name]
    chunk = (2**30 // max(1, int(np.prod(tail))), *tail)
    made = parent.create_dataset(
        name, (STEPS, *tail), "f8", chunks=chunk, maxshape=(None, *tail), compression=9
    )
    assert made.chunks == chunk


def retyped(values: Callable[[Any], Any]) -> Spoil:
    def spoil(parent: Any, name: str, root: Path) -> None:
        old = parent[name][()]
        del parent[name]
        parent[name] = values(old)

    return spoil


def a_group(parent: Any, name: str, root: Path) -> None:
    del parent[name]
    parent.create_group(name)


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "soft link": (soft_link, "is a link"),
    "link to itself": (link_to_itself, "is a link"),
    "external link": (external_link, "is a link"),
    "external storage": (external_storage, "stored in other files"),
    "virtual": (virtual, "stored in other files"),
    "huge": (huge, "declares 1,?[0-9,]+ values|declares [0-9,]+ values, more"),
    "huge chunk": (huge_chunk, "declares|chunks|lengths disagree|not finite|memory"),
    "bytes": (retyped(lambda x: np.full(x.shape, b"1")), r"the type \|S1"),
    "text": (retyped(lambda x: np.full(x.shape, "1", h5py.string_dtype())), "the type object"),
    "complex": (retyped(lambda x: x.astype(np.complex64)), "the type complex64"),
    "compound": (retyped(lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "f4")])), "the type"),
    "empty": (retyped(lambda x: h5py.Empty("f4")), "is empty, expected an array"),
    "scalar": (retyped(lambda x: np.float32(0)), r"shape \(\)|must be 0 or 1"),
    "nan": (
        retyped(lambda x: np.where(np.arange(x.size).reshape(x.shape) == 3, np.nan, x)),
        r"not finite|must be 0 or 1, found nan at step 3",
    ),
    "group": (a_group, "is a group|are a (dict|tuple) of parts"),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_array_is_refused_in_words(root: Path, kind: str, name: str) -> None:
    spoil, words = HOSTILE[kind]
    spoil_array(root, name, spoil)
    started = time.monotonic()
    with pytest.raises(DataError, match=words) as error:
        read_dataset(root, ID)
    assert f"{ID}, episode 1 of 3" in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("value", [2, -1, 0.5, np.inf])
@pytest.mark.parametrize("name", ["terminations", "truncations"])
def test_flags_other_than_0_and_1_are_refused(root: Path, name: str, value: float) -> None:
    spoil_array(root, name, retyped(lambda x: np.full(x.shape, value)))
    with pytest.raises(DataError, match=f"episode 1 of 3: {name} must be 0 or 1, found"):
        read_dataset(root, ID)


@pytest.mark.parametrize("name", ["terminations", "truncations"])
def test_an_end_before_the_last_step_is_refused(root: Path, name: str) -> None:
    spoil_array(root, name, retyped(lambda x: np.arange(len(x)) == 4))
    with pytest.raises(DataError, match=r"episode 1 of 3: .* at step 4 of 12 and continues"):
        read_dataset(root, ID)


@pytest.mark.parametrize("group", [EPISODE, f"{EPISODE}/infos"])
@pytest.mark.parametrize("target", ["soft", "external", "circle", "array"])
def test_a_group_that_is_a_link_or_none_is_refused(root: Path, group: str, target: str) -> None:
    with h5py.File(root / ID / "data" / "main_data.hdf5", "a") as file:
        del file[group]
        links = {
            "soft": h5py.SoftLink(group.replace("_1", "_0")),
            "external": h5py.ExternalLink("/etc/passwd", "/"),
            "circle": h5py.SoftLink(f"/{group}"),
            "array": np.zeros(3),
        }
        file[group] = links[target]
    with pytest.raises(DataError, match=r"is a link|expected a group"):
        read_dataset(root, ID)


def test_a_group_that_contains_itself_is_not_walked(root: Path) -> None:
    path = root / ID / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        file[f"{EPISODE}/again"] = file[EPISODE]
        file[f"{EPISODE}/infos/deep"] = file["/"]
    assert len(read_dataset(root, ID).episodes) == 3


def test_declared_sizes_beyond_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = np.zeros(1000)
        assert find_array(file, "x", "a").shape == (1000,)
        monkeypatch.setattr("os.sysconf", lambda name: 4 if name == "SC_PAGE_SIZE" else 1000)
        with pytest.raises(DataError, match=r"x has 8,000 bytes, more than .* memory"):
            find_array(file, "x", "a")


def env_spec(entry_point: str, compact: bool) -> str:
    """An environment in metadata, as Gymnasium writes it; compact: without spaces."""
    spec = {
        "id": "SafetyPointGoal1Gymnasium-v0",
        "entry_point": entry_point,
        "reward_threshold": None,
        "nondeterministic": False,
        "max_episode_steps": None,
        "order_enforce": True,
        "autoreset": False,
        "disable_env_checker": True,
        "apply_api_compatibility": False,
        "kwargs": {"path": "executed"},
        "additional_wrappers": [],
        "vector_entry_point": None,
    }
    return json.dumps(spec, separators=(",", ":") if compact else None)


HOSTILE_MODULE = """
import pathlib
def make(**settings):
    pathlib.Path(settings["path"]).write_text("executed")
    raise SystemExit
pathlib.Path("imported").write_text("imported")
"""


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("spaces", [True, False])
def test_nothing_that_metadata_name_is_executed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compact: bool, spaces: bool
) -> None:
    (tmp_path / "hostile_entry_point.py").write_text(HOSTILE_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    changes = {} if spaces else {"observation_space": None, "action_space": None}
    edit_metadata(root, env_spec=env_spec("hostile_entry_point:make", compact), **changes)
    stored = read_dataset(root, ID)
    assert same_episodes(stored.episodes, [make_episode(i) for i in range(3)])
    assert describe(stored, TASK.name) == TASK.spec
    assert not (tmp_path / "executed").exists() and not (tmp_path / "imported").exists()
    assert "hostile_entry_point" not in sys.modules


def test_reading_needs_neither_minari_nor_an_environment(root: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "for name in ('minari', 'gymnasium', 'safety_gymnasium'): sys.modules[name] = None\n"
        "from proco_jax.data.minari_store import read_dataset\n"
        f"print(len(read_dataset(Path({str(root)!r}), {ID!r}).episodes))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total_episodes": 2}, "found 3 episodes, but its metadata state 2"),
        ({"total_episodes": 4}, "episode 3 of 4: a key is missing"),
        ({"total_episodes": 10**12}, "episode 3 of 1000000000000: a key is missing"),
        ({"total_episodes": -1}, "found 3 episodes, but its metadata state -1"),
        ({"total_episodes": "3"}, "metadata state '3'"),
        ({"total_episodes": 3.0}, "metadata state 3.0"),
        ({"total_steps": 35}, "found 36 steps, but its metadata state 35"),
        ({"data_format": "arrow"}, "the format 'arrow', expected hdf5"),
        ({"data_format": {"a": 1}}, "the format {'a': 1}, expected hdf5"),
        ({"proco": 7}, r"metadata .* damaged \(proco: found a int"),
        ({"proco": {"task": ["x"]}}, r"proco.task: found \['x'\], expected str"),
        ({"proco": {"recipe": "x"}}, "proco.recipe: found 'x', expected dict"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(root: Path, changes: Any, words: str) -> None:
    edit_metadata(root, **changes)
    with pytest.raises(DataError, match=words):
        read_dataset(root, ID)


@pytest.mark.parametrize("name", ["total_episodes", "total_steps", "data_format", "proco"])
@pytest.mark.parametrize("value", ["x" * 10_000, ["x" * 10_000] * 100, {"x" * 10_000: 1}])
def test_long_metadata_are_told_in_a_short_message(root: Path, name: str, value: Any) -> None:
    edit_metadata(root, **{name: {"task": value} if name == "proco" else value})
    if name == "proco" and isinstance(value, str):
        return
    with pytest.raises(DataError) as error:
        read_dataset(root, ID)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b"\xff\xfe\x00", b"[" * 100_000, b"null", b'"text"']
)
def test_metadata_that_are_no_json_object_are_refused(root: Path, content: bytes) -> None:
    (root / ID / "data" / "metadata.json").write_bytes(content)
    with pytest.raises(DataError, match=r"metadata .* is damaged .*; remove"):
        read_dataset(root, ID)


FIELD = {"name": "x", "size": 60, "kind": "flat", "unit": "1", "meaning": "all"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[7]",
        '["x"]',
        "[[1]]",
        '[{"a": 1}]',
        "[" * 100_000,
        *(
            json.dumps([FIELD | change])
            for change in (
                {"size": "60"},
                {"size": 60.0},
                {"size": -1},
                {"kind": "cube"},
                {"name": 3},
                {"reach": float("inf"), "kind": "ring"},
                {"reach": "far", "kind": "ring"},
            )
        ),
    ],
)
def test_a_description_of_observations_that_is_none_is_refused(root: Path, text: str) -> None:
    edit_metadata(root, proco={"observation": text})
    with pytest.raises(DataError, match="its stored description cannot be read"):
        describe(read_dataset(root, ID), TASK.name)


@pytest.mark.parametrize("spec", ["7", "[]", "null", '{"id": 7}', "[" * 100_000, '{"id": ["x"]}'])
def test_an_environment_that_is_none_names_no_task(root: Path, spec: str) -> None:
    edit_metadata(root, env_spec=spec, proco=None)
    assert describe(read_dataset(root, ID), TASK.name) == TASK.spec


@pytest.mark.parametrize("kind", ["empty", "garbage", "cut", "zeros", "folder", "absent"])
def test_a_file_that_is_no_hdf5_file_is_refused(root: Path, kind: str) -> None:
    path = root / ID / "data" / "main_data.hdf5"
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "absent":
        garbage = np.random.default_rng(0).bytes(5000)
        damaged = {"empty": b"", "garbage": garbage, "cut": content[: len(content) // 2]}
        path.write_bytes(damaged.get(kind, bytes(5000)))
    with pytest.raises(DataError, match=r"main_data\.hdf5.*make, import or download it again"):
        read_dataset(root, ID)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["observations", "rewards", "terminals"])
def test_a_hostile_array_of_a_dsrl_file_is_refused_in_words(
    tmp_path: Path, kind: str, name: str
) -> None:
    path = tmp_path / TASK.dsrl_file
    episode = make_episode(0)
    flat: dict[str, Any] = dict.fromkeys(KEYS, np.zeros(STEPS, np.float32))
    flat |= {"observations": episode.obs[:-1], "next_observations": episode.obs[1:]}
    flat["actions"] = episode.action
    with h5py.File(path, "w") as file:
        for key in KEYS:
            file[key] = flat[key]
    assert len(list(read_dsrl(path, TASK))) == 1
    spoil, words = HOSTILE[kind]
    with h5py.File(path, "a") as file:
        if kind == "soft link":
            del file[name]
            file[name] = h5py.SoftLink("/costs")
        else:
            spoil(file, name, tmp_path)
    with pytest.raises(DataError, match=f"{words}|must have the same length above 0"):
        list(read_dsrl(path, TASK))
