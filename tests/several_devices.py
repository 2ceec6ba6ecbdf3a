"""Tests on several CPU devices, which need a process of their own."""

import os
import subprocess
import sys
from pathlib import Path


def run_on_devices(count: int, code: str) -> str:
    """Runs code that may import the modules of this folder; returns what it prints.

    The process has `count` CPU devices. It must not fail.
    """
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
