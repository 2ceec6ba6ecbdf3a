import os
import subprocess
import sys

import pytest

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
