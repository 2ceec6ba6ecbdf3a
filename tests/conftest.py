"""JAX for tests: on the CPU unless told otherwise, compiled fast, and no random key used twice."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the tests' time, and takes a third less. Not 0: jaxlib 0.10.2's loops then
# come to nan. The whole run (small_run.py) is compiled as users compile it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax
import pytest
from core_toys import SPEC

from proco_jax.observation import ObservationSpec

jax.config.update("jax_debug_key_reuse", True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file begins first, so that no core waits for it in the end."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def spec() -> ObservationSpec:
    """Two rings, a planar vector, flat and constant numbers."""
    return SPEC
