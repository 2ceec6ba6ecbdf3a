"""Sweeps in an object store: machines without a common folder, nothing lost and nothing twice.

The object store is a folder behind obstore, and a real server of S3 where moto is installed.
"""

import importlib.util
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.sweeps import SimulatedWork, template_row
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.object_store import ObjectStore
from proco_jax.config.schema import Config
from proco_jax.data.collection import make_recipe, recipe_id
from proco_jax.envs.tasks import get_task
from proco_jax.pipeline.store import ArtifactError, artifact, attach, has_artifact
from proco_jax.sweeps.description import Sweep, Unit, expand
from proco_jax.sweeps.folder import FAILURE, Root, write_plan
from proco_jax.sweeps.queue import Outcome, run_units
from proco_jax.sweeps.ray_engine import run_on_ray
from proco_jax.sweeps.remote import Remote, RemoteWork, open_remote
from proco_jax.sweeps.report import write_sweep_report
from proco_jax.sweeps.results import load_results
from proco_jax.sweeps.shares import Share, take_share
from proco_jax.sweeps.status import sweep_progress

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'proco-jax[remote]'")

Log = Callable[[str], None]
UNITS = expand(
    Sweep(
        ("point_goal", "car_goal"),
        "quick",
        algorithms=("bc",),
        augmentations=("none",),
        shields=("none",),
        hyperparameters={"bc.learning_rate": (1e-3, 1e-2), "train.batch": (16, 32)},
        seeds=2,
    )
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("moto", reason="moto is not installed: see BUILD.md")
    pytest.importorskip("flask_cors", reason="moto's server needs flask and flask-cors")
    from moto.server import ThreadedMotoServer  # pyright: ignore[reportMissingImports]

    found = ThreadedMotoServer(port=0, verbose=False)
    found.start()
    host, port = found.get_host_and_port()
    yield f"http://{host}:{port}"
    found.stop()


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.filterwarnings("ignore"))])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectStore:
    if request.param == "folder":
        return ObjectStore(f"file://{tmp_path}/bucket/sweep")
    address = request.getfixturevalue("server")
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1"}
    for name, value in (keys | {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    bucket = tmp_path.name.replace("_", "-")[:40].strip("-") + "-bucket"
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    return ObjectStore(f"s3://{bucket}/sweep")


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    return template_row()


@pytest.fixture(scope="module")
def expected(row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = Root(tmp_path_factory.mktemp("sweep"))
    write_plan(root, UNITS)
    run_units(root, UNITS, root.unit_finished, SimulatedWork(root, row), lambda line: None)
    return load_results(sweep_progress([root]))


def machine(place: ObjectStore, folder: Path, row: dict[str, Any], pause: float = 0) -> RemoteWork:
    """The work of a machine with a disk of its own."""
    remote = open_remote(place.address, str(folder))
    write_plan(remote.root, UNITS)
    remote.put_plan()
    return RemoteWork(SimulatedWork(remote.root, row, pause), remote)


def run(work: RemoteWork, units: list[Unit], log: Log = lambda line: None) -> Outcome:
    return run_units(work.root, units, work.is_done, work, log)


def report(place: ObjectStore, folder: Path) -> Any:
    remote = open_remote(place.address, str(folder))
    remote.get_results()
    return load_results(sweep_progress([remote.root]))


def test_texts_and_folders_of_an_object_store(place: ObjectStore, tmp_path: Path) -> None:
    assert place.read("a/b") is None and not place.exists("a/b") and place.names("a") == []
    place.remove("a/b")
    place.write("a/b", "Grüße")
    assert place.read("a/b") == "Grüße" and place.names("a") == ["b"] and place.names("") == []
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    (source / "in" / "file").write_bytes(b"\0\1")
    place.put_folder("a/c", source, [source / "in", source / "missing"])
    assert place.folder_names("a") == ["c"] and place.has_folder("a/c")
    with place.folder("a/c", tmp_path) as copy:
        assert copy is not None and (copy / "in" / "file").read_bytes() == b"\0\1"
    assert not list(tmp_path.glob(".transfer-*"))
    with place.folder("a/d", tmp_path) as copy:
        assert copy is None
    place.remove_folder("a/c")
    assert not place.has_folder("a/c")


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    place = ObjectStore(f"file://{tmp_path}/bucket")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"))
    for bad in (content.getvalue(), b"no archive"):
        place.write("hostile.tar", bad)
        with (
            pytest.raises(ValueError, match=r"hostile\.tar is damaged .*; remove it"),
            place.folder("hostile", tmp_path),
        ):
            pass
    assert not (tmp_path / "outside").exists()


def test_an_object_store_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"strange://x: .*check the address"):
        ObjectStore("strange://x").read("a")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"s3://a: obstore is not .* 'proco-jax\[remote\]'"):
        ObjectStore("s3://a").read("b")


def test_an_artifact_is_made_on_one_machine_alone(place: ObjectStore, tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "weights").write_text("1 2 3")

    stores = [tmp_path / name for name in "abc"]
    for store in stores:
        attach(store, place.address)
    inputs = {"rate": 0.5}
    assert not has_artifact(stores[0], "cost", inputs, print)
    found = [artifact(store, "cost", inputs, make, print) for store in stores[:2]]
    assert len(made) == 1 and (found[1] / "weights").read_text() == "1 2 3"
    assert has_artifact(stores[2], "cost", inputs, print) and len(made) == 1
    # A process was killed before it put the artifact there.
    place.remove_folder(f"cost/{found[0].name}")
    artifact(stores[0], "cost", inputs, make, print)
    assert place.has_folder(f"cost/{found[0].name}") and len(made) == 1
    (found[0] / "weights").write_text("1 2 4")
    place.put_folder(f"cost/{found[0].name}", found[0].parent, [found[0]])
    shutil.rmtree(found[1])
    with pytest.raises(ArtifactError, match=f"{place.address}.*weights differs.*remove that obj"):
        artifact(stores[1], "cost", inputs, make, print)


def test_machines_with_disks_of_their_own_give_the_same_results(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any], expected: Any
) -> None:
    works = [machine(place, tmp_path / str(i), row) for i in range(2)]
    first = take_share(UNITS, Share(0, 2))
    assert run(works[0], first) == (len(first), 0, {})
    assert len(report(place, tmp_path / "half").rows) == len(expected.rows) // 2
    # The second does the rest alone, though it has not seen what the first did.
    assert run(works[1], UNITS) == (len(UNITS) - len(first), len(first), {})
    assert run(machine(place, tmp_path / "new", row), UNITS) == (0, len(UNITS), {})
    assert report(place, tmp_path / "report") == expected


def test_the_report_is_put_beside_the_results(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any]
) -> None:
    remote = machine(place, tmp_path / "a", row).remote
    path, lines = write_sweep_report([remote.root])
    remote.put_report(path.parent)
    assert lines == ["0 of 8 runs are finished, 8 are left."]
    assert place.read("report/sweep.html") == path.read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_results(tmp_path: Path, row: dict[str, Any], expected: Any) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'proco-jax[ray]'")
    place = ObjectStore(f"file://{tmp_path}/bucket")
    work = machine(place, tmp_path / "a", row)
    assert run_on_ray(work, UNITS, 1, 0, "", lambda line: None) == (len(UNITS), 0, {})
    assert report(place, tmp_path / "report") == expected


def test_two_machines_on_the_same_units_give_each_result_once(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any], expected: Any
) -> None:
    works = [machine(place, tmp_path / str(i), row, pause=0.002) for i in range(2)]
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda work=work: outcomes.append(run(work, UNITS)))
        for work in works
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [sum(one[:2]) for one in outcomes] == [len(UNITS)] * 2
    assert report(place, tmp_path / "report") == expected
    assert sorted(place.folder_names("results")) == sorted(unit.name for unit in UNITS)


def test_what_was_not_put_there_is_put_without_doing_it_again(
    place: ObjectStore,
    tmp_path: Path,
    row: dict[str, Any],
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = machine(place, tmp_path / "a", row)
    with monkeypatch.context() as patch:

        def broken(self: ObjectStore, *rest: Any) -> None:
            raise OSError("connection lost")

        patch.setattr(ObjectStore, "put_folder", broken)
        outcome = run(work, UNITS[:1])
    assert list(outcome.failed.values()) == ["OSError: connection lost"]
    assert json.loads((work.root.unit(UNITS[0].name) / FAILURE).read_text())["error"]
    results = work.root.run(UNITS[0].runs[0].name) / "results.json"
    before = results.stat().st_mtime_ns if results.exists() else 0
    assert run(work, UNITS) == (len(UNITS), 0, {})
    assert not before or results.stat().st_mtime_ns == before
    assert report(place, tmp_path / "report") == expected


def test_a_failure_is_seen_by_the_report_until_it_is_mended(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any]
) -> None:
    work = machine(place, tmp_path / "a", row)
    failing = RemoteWork(Failing(work.root, row), work.remote)
    assert set(run(failing, UNITS[:1]).failed) == {UNITS[0].name}
    root = open_remote(place.address, str(tmp_path / "b"))
    root.get_results()
    assert sweep_progress([root.root]).failed == {UNITS[0].name: "FloatingPointError: loss"}
    # Trained by another machine, to be evaluated later.
    place.remove(f"failed/{UNITS[0].name}")
    root.get_results()
    assert sweep_progress([root.root]).failed == {}
    run(work, UNITS[:1])
    assert place.names("failed") == []


class Failing(SimulatedWork):
    def __call__(self, unit: Unit, log: Log) -> None:
        raise FloatingPointError("loss")


def test_a_lost_machine_leaves_its_checkpoints(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any]
) -> None:
    lost, other = (machine(place, tmp_path / name, row) for name in "ab")
    unit = UNITS[0]
    state = {"x": np.arange(3.0, dtype=np.float32)}
    folders = [
        lost.root.unit(unit.name) / "training" / "bc-none" / "checkpoints",
        lost.root.store / "dynamics" / "abc.partial" / "checkpoints",
    ]
    for folder in folders:
        with Checkpoints(folder) as saved:
            saved.save(10, state)
            saved.save(20, {"x": state["x"] + 1})
    # The copy met a save that was not complete.
    torn = next(path for path in (folders[1] / "20").rglob("*") if path.is_file())
    torn.write_bytes(b"torn")
    lost.put_checkpoints(unit)
    seen: list[int] = []

    class Resuming(SimulatedWork):
        def __call__(self, unit: Unit, log: Log) -> None:
            for folder in folders:
                with Checkpoints(other.root.path / folder.relative_to(lost.root.path)) as saved:
                    found = saved.restore(state)
                    assert found is not None
                    seen.append(found[0])
            super().__call__(unit, log)

    resuming = RemoteWork(Resuming(other.root, row), other.remote)
    assert run(resuming, [unit]) == (1, 0, {})
    assert seen == [20, 10] and not place.has_folder(f"unfinished/{unit.name}")


def test_checkpoints_are_kept_while_a_unit_is_worked_on(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any]
) -> None:
    work = machine(place, tmp_path / "a", row)
    kept = threading.Event()

    class Training(SimulatedWork):
        def __call__(self, unit: Unit, log: Log) -> None:
            with Checkpoints(self.root.unit(unit.name) / "training" / "checkpoints") as saved:
                saved.save(1, {"x": np.zeros(2, np.float32)})
            for _ in range(1000):
                if place.has_folder(f"unfinished/{unit.name}"):
                    kept.set()
                    break
                threading.Event().wait(0.01)
            super().__call__(unit, log)

    training = RemoteWork(Training(work.root, row), work.remote, seconds=0.01)
    assert run(training, UNITS[:1]) == (1, 0, {}) and kept.is_set()
    assert not place.has_folder(f"unfinished/{UNITS[0].name}")


def test_logs_are_collected_on_one_machine_alone(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = []
    config = UNITS[0].runs[0].config
    named = recipe_id(make_recipe(get_task(config.task), config.data))

    class Collecting(SimulatedWork):
        def __call__(self, unit: Unit, log: Log) -> None:
            made = tmp_path / name / "data" / named
            datasets.append(made.is_dir())
            if not made.is_dir():
                made.mkdir(parents=True)
                (made / "log").write_text("logs")
            super().__call__(unit, log)

    assert Config().data.source == "collect"
    for name, unit in zip("ab", UNITS[:2], strict=True):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / name / "data"))
        work = machine(place, tmp_path / name / "root", row)
        lines: list[str] = []
        run(RemoteWork(Collecting(work.root, row), work.remote), [unit], lines.append)
    assert datasets == [False, True] and any("logs of another machine" in line for line in lines)
    assert (tmp_path / "b" / "data" / named / "log").read_text() == "logs"


def test_a_trained_unit_is_evaluated_elsewhere(
    place: ObjectStore, tmp_path: Path, row: dict[str, Any]
) -> None:
    class OnlyTraining(SimulatedWork):
        def __call__(self, unit: Unit, log: Log) -> None:
            pass

    work = machine(place, tmp_path / "a", row)
    training = RemoteWork(OnlyTraining(work.root, row), work.remote, trains_only=True)
    assert run(training, UNITS[:1]) == (1, 0, {}) and run(training, UNITS[:1]) == (0, 1, {})
    remote = Remote(place, Root(tmp_path / "b"))
    remote.open()
    remote.get_results()
    assert len(sweep_progress([remote.root]).trained) == len(UNITS[0].runs)
    other = machine(place, tmp_path / "b", row)
    assert other.is_trained(UNITS[0]) and not other.is_trained(UNITS[1])
    assert not other.is_done(UNITS[0])
    assert run(other, UNITS[:1]) == (1, 0, {})
    assert other.root.unit_trained(UNITS[0]) and other.is_done(UNITS[0])
