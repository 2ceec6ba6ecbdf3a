"""JAX for tests: on the CPU unless told otherwise, and a random key used twice is an error."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

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
