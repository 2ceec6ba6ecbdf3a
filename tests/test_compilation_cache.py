from collections.abc import Iterator
from pathlib import Path

import jax
import jax.experimental.compilation_cache.compilation_cache
import jax.numpy as jnp
import pytest

from proco_jax.common.compilation_cache import LARGEST_BYTES, use_compilation_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("PROCO_JAX_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    # JAX decides at the first compilation after this whether there is a cache.
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    yield
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_lies_in_the_users_cache_folder_and_its_size_is_limited(tmp_path: Path) -> None:
    folder = use_compilation_cache()
    assert folder is not None and folder.is_dir()
    assert folder.parent == tmp_path / "home" / "proco-jax"
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    assert jax.config.values["jax_compilation_cache_max_size"] == LARGEST_BYTES


def test_the_environment_names_another_folder_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCO_JAX_CACHE", "off")
    assert use_compilation_cache() is None and not jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.setenv("PROCO_JAX_CACHE", str(tmp_path / "mine"))
    folder = use_compilation_cache()
    assert folder is not None and folder.parent == tmp_path / "mine"


def test_a_cache_that_the_user_gave_jax_is_kept(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    assert use_compilation_cache() is None
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "theirs")


def test_without_a_folder_to_write_to_nothing_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROCO_JAX_CACHE", str(tmp_path / "file"))
    assert use_compilation_cache() is None and not jax.config.values["jax_compilation_cache_dir"]


def test_a_program_is_kept_and_found_again() -> None:
    folder = use_compilation_cache()
    assert folder is not None
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    found = [float(jax.jit(lambda x: 3.0 * x + 1.5)(jnp.float32(2.0))) for _ in range(2)]
    assert found == [7.5, 7.5]
    assert [path for path in folder.iterdir() if "-cache" in path.name]
