"""The cache of compiled programs in the user's cache folder: a repeated run need not compile."""

import hashlib
import importlib.util
import os
import platform
from pathlib import Path

import jax
from jaxlib.version import __version__ as JAXLIB_VERSION

LARGEST_BYTES = 2 * 1024**3
OFF = "off"


def use_compilation_cache() -> Path | None:
    """Keeps compiled programs for later processes, at most 2 GiB of them.

    The folder is `proco-jax` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`), or what
    `PROCO_JAX_CACHE` says; `off` there turns the cache off. If `JAX_COMPILATION_CACHE_DIR` is set,
    JAX's own settings stay as they are.

    Returns:
      The folder; None if this function sets none, e.g. because it cannot be written.
    """
    asked = os.environ.get("PROCO_JAX_CACHE", "")
    if asked == OFF or jax.config.values["jax_compilation_cache_dir"]:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = (Path(asked) if asked else Path(home) / "proco-jax") / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX limits the size with the help of this package.
    if importlib.util.find_spec("filelock") is not None:
        jax.config.update("jax_compilation_cache_max_size", LARGEST_BYTES)
    return folder


def _machine() -> str:
    """Names what a compiled program depends on beside its content: versions and the processor."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(errors="replace").splitlines()
        cpu += "".join(
            sorted({x for x in lines if x.startswith(("flags", "model name", "Features"))})
        )
    told = hashlib.sha256(cpu.encode()).hexdigest()[:8]
    return f"jaxlib-{JAXLIB_VERSION}-{platform.machine()}-{told}"
