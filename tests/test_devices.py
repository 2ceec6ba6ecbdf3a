import os
import subprocess
import sys

import pytest

CODE = """
import jax
from proco_jax.devices import share_cores
share_cores({seeds})
print(jax.device_count())
"""


@pytest.mark.parametrize(
    ("seeds", "flags", "devices"),
    [
        (1, "", 1),
        (1000, "", len(os.sched_getaffinity(0))),
        (1000, "--xla_force_host_platform_device_count=3", 3),
    ],
)
def test_a_core_is_a_device_unless_the_user_says_otherwise(seeds, flags, devices):
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(seeds=seeds)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == devices
