"""JAX for tests: on the CPU unless told otherwise, and a random key used twice is an error."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from core_toys import SPEC

from proco_jax.observation import ObservationSpec

jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="session")
def spec() -> ObservationSpec:
    """Two rings, a planar vector, flat and constant numbers."""
    return SPEC
