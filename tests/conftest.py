"""JAX for tests: on the CPU unless told otherwise, compiled fast, and no random key used twice."""

import gc
import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the tests' time. It takes a third less without fusion emitters, less than
# half without optimization, and a tenth less where a program is compiled in one piece. XLA ends a
# process whose flags it does not know, and jaxlib 0.12 cannot do without fusion emitters. Where
# users' programs were once compiled wrong, a test compiles as they do.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1"
        " --xla_llvm_force_inline_before_split=false"
        if version("jaxlib").startswith("0.10.")
        else ""
    ),
)
# Commands would otherwise keep compiled programs in the user's cache folder.
os.environ.setdefault("PROCO_JAX_CACHE", "off")

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from core_toys import SPEC

from proco_jax.observation import ObservationSpec

jax.config.update("jax_debug_key_reuse", True)


def pytest_collection_finish() -> None:
    """Modules and tests live until the end, so the garbage collector need not visit them.

    Tracing makes many objects, and each full collection would visit a million older ones.
    """
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that no core waits for one in the end."""
    longest = (
        "test_pipeline.py",
        "test_training.py",
        "test_config_runs.py",
        "test_batched.py",
        "test_own_system.py",
        "test_braking.py",
    )
    rank = {name: i for i, name in enumerate(longest)}
    items.sort(key=lambda item: rank.get(item.path.name, len(longest)))


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of compiled programs: all tests of this run, in whatever process, share it."""
    base = tmp_path_factory.getbasetemp()
    # The workers of pytest-xdist have folders of their own in one of the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


@pytest.fixture(scope="module")
def unchecked_keys() -> Iterator[None]:
    """For trainings: the checker of keys refuses a scan over keys inside a map over members."""
    jax.config.update("jax_debug_key_reuse", False)
    yield
    jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="session")
def spec() -> ObservationSpec:
    """Two rings, a planar vector, flat and constant numbers."""
    return SPEC
