import os
import subprocess
import sys

import pytest

from proco_jax.common import sharding
from proco_jax.common.sharding import OPTIMIZATION_LEVEL

CODE = """
import jax
from proco_jax.common.sharding import use_cores_as_devices
use_cores_as_devices({members})
print(jax.device_count())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "flags", "devices"),
    [
        (1, "", 1),
        (1000, "", len(os.sched_getaffinity(0))),
        (1000, "--xla_force_host_platform_device_count=3", 3),
    ],
)
def test_each_core_is_a_device_unless_the_user_sets_a_number(members, flags, devices):
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(members=members)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == devices


@pytest.mark.parametrize(
    ("flags", "plugin", "level"),
    [
        ("", False, OPTIMIZATION_LEVEL),
        ("--xla_backend_optimization_level=0", False, 0),
        ("", True, None),
    ],
)
def test_programs_are_compiled_with_a_level_for_cpus_unless_the_user_sets_one(
    monkeypatch, flags, plugin, level
):
    monkeypatch.setenv("XLA_FLAGS", flags)
    # The device count of this process stays as it is.
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setattr(sharding, "_has_accelerator_plugin", lambda: plugin)
    sharding.use_cores_as_devices(2)
    found = [x for x in os.environ["XLA_FLAGS"].split() if "optimization_level" in x]
    assert found == ([] if level is None else [f"--xla_backend_optimization_level={level}"])
