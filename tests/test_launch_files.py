"""The launch files: each agrees with the schema of its tool, and runs the command that it says.

Where a tool is installed, its own parser reads the file; everywhere, structure, shell syntax and
the flags of the command are checked, and shell scripts run with the tool replaced.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "experiments" / "launch"
FILES = sorted(path.name for path in LAUNCH.iterdir())


def load(name: str) -> Any:
    return yaml.safe_load((LAUNCH / name).read_text())


def check_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def commands(text: str) -> list[str]:
    """The modules of this package that a text runs, with their flags."""
    joined = re.sub(r"^#", "", re.sub(r"\\\n#?", " ", text), flags=re.MULTILINE)
    return re.findall(r"python -m (proco_jax\.\S+[^\n\"]*)", joined)


def test_every_launch_file_is_tested_and_explained() -> None:
    tested = Path(__file__).read_text()
    build = (ROOT / "BUILD.md").read_text()
    for name in FILES:
        assert f'"{name}"' in tested and name in build


@pytest.mark.parametrize("name", FILES)
def test_commands_in_a_launch_file_have_flags_that_exist(name: str) -> None:
    known = {
        "proco_jax.sweep": (ROOT / "src/proco_jax/sweep.py").read_text(),
        "proco_jax.report": (ROOT / "src/proco_jax/report/__main__.py").read_text(),
    }
    for command in commands((LAUNCH / name).read_text()):
        module, _, flags = command.partition(" ")
        assert (ROOT / "src" / module.replace(".", "/")).with_suffix(".py").exists() or (
            ROOT / "src" / module.replace(".", "/")
        ).is_dir()
        for flag in re.findall(r"--([a-z_]+)", flags):
            assert f'"{flag}"' in known[module] or flag == "workdir"


def test_skypilot_jobs() -> None:
    task = load("skypilot.yaml")
    assert set(task) == {"name", "resources", "workdir", "envs", "file_mounts", "setup", "run"}
    check_shell(task["setup"])
    check_shell(task["run"])
    used = set(re.findall(r"\$\{?([A-Z_]+)", task["run"] + json.dumps(task["file_mounts"])))
    assert used - set(task["envs"]) == {"SKYPILOT_JOB_RANK", "HOME"}


@pytest.mark.filterwarnings("ignore")
def test_skypilot_reads_its_file() -> None:
    sky = pytest.importorskip("sky", reason="skypilot is not installed")
    task = sky.Task.from_yaml(str(LAUNCH / "skypilot.yaml"))
    assert task.name == "proco-sweep" and task.run


def test_slurm_array_runs_the_share_of_its_task(tmp_path: Path) -> None:
    text = (LAUNCH / "slurm.sh").read_text()
    check_shell(text)
    options = re.findall(r"^#SBATCH --([a-z-]+)", text, flags=re.MULTILINE)
    assert {"gres", "requeue", "output"} <= set(options) and len(set(options)) == len(options)
    # Slurm reads options up to the first command only.
    assert text.rindex("#SBATCH") < text.index("\nset ")
    srun = tmp_path / "srun"
    srun.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\necho "$MINARI_DATASETS_PATH"\n')
    srun.chmod(0o755)
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT)}
    done = subprocess.run(
        ["bash", LAUNCH / "slurm.sh", "some.py", "/results", "--evaluate=later"],
        env=own,
        text=True,
        capture_output=True,
        check=True,
    )
    *words, data = done.stdout.splitlines()
    assert shlex.join(words) == (
        "uv run --no-sync python -m proco_jax.sweep --sweep=some.py --workdir=/results "
        "--evaluate=later"
    )
    assert data == "/results/data"


def test_kubernetes_indexed_job() -> None:
    job = load("kubernetes.yaml")
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    # Required by podFailurePolicy and by backoffLimitPerIndex.
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert int(variables["JOB_COMPLETIONS"]) == spec["completions"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == volumes
    command = container["command"]
    assert command[:3] == ["python", "-m", "proco_jax.sweep"]
    assert f"--workdir={mounts['results']}" in command


def test_ray_cluster() -> None:
    cluster = load("ray_cluster.yaml")
    assert cluster["head_node_type"] in cluster["available_node_types"]
    for name, lines in cluster.items():
        if name.endswith("_commands"):
            for line in lines:
                check_shell(line)


@pytest.mark.filterwarnings("ignore")
def test_ray_reads_its_file() -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'proco-jax[ray]'")
    from ray.autoscaler._private.util import (  # pyright: ignore[reportMissingImports]
        prepare_config,
        validate_config,
    )

    validate_config(prepare_config(load("ray_cluster.yaml")))


def test_dockerfile_copies_what_is_there_and_installs_extras_that_exist() -> None:
    import tomllib

    text = (LAUNCH / "Dockerfile").read_text()
    for names in re.findall(r"^COPY (.*) \S+$", text, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in names.split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"--extra (\w+)", text):
        assert extra in extras["optional-dependencies"]
    for line in re.findall(r"^RUN ((?:.*\\\n)*.*)", text, flags=re.MULTILINE):
        check_shell(line)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_a_copy_declares_nothing_complete_that_is_not(tmp_path: Path) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    for name in ("store/policies/a/artifact.json", "store/policies/a/data", "runs/b/done.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    script = ["bash", LAUNCH / "copy_results.sh", root, copy]
    copy.mkdir()
    subprocess.run(script, check=True)
    copied = {p.relative_to(copy) for p in copy.rglob("*") if p.is_file()}
    assert copied == {p.relative_to(root) for p in root.rglob("*") if p.is_file()}


def test_the_copy_lists_what_is_complete_before_it_copies(tmp_path: Path) -> None:
    """An artifact completed during the copy is not declared complete, with rsync replaced."""
    text = (LAUNCH / "copy_results.sh").read_text()
    check_shell(text)
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "artifact.json").write_text("")
    log = tmp_path / "log"
    fake = tmp_path / "rsync"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        "found = [x for x in sys.argv if x.startswith('--files-from=')]\n"
        "names = pathlib.Path(found[0].split('=')[1]).read_text() if found else 'others'\n"
        f"pathlib.Path({str(log)!r}).open('a').write(names + '|')\n"
        "pathlib.Path('b').mkdir(exist_ok=True)\n"
        "pathlib.Path('b/artifact.json').write_text('')\n"
    )
    fake.chmod(0o755)
    subprocess.run(
        ["bash", LAUNCH / "copy_results.sh", tmp_path / "root", tmp_path / "copy"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    assert log.read_text() == "others|./a/artifact.json\n|"
