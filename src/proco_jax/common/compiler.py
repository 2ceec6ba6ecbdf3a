"""Programs that are compiled fast on CPUs: those that run once or rarely, or as fast either way.

The compiler's options depend on the device, which JAX looks for at a function's first call.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxlib.version import __version__ as JAXLIB_VERSION

_EMITTERS = "xla_cpu_use_fusion_emitters"


def jit_run_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for a function that runs once: on a CPU its program is not optimized, whatever
    level `XLA_FLAGS` sets.

    Within another traced function, e.g. in `jax.eval_shape`, it is the function itself.
    """
    return _jit(function, {"xla_backend_optimization_level": 0}, ())


def jit_compile_fast(
    function: Callable[..., Any], static_argnums: int | tuple[int, ...] = ()
) -> Callable[..., Any]:
    """`jax.jit` for a function whose compilation takes as long as its work, or that runs as fast
    without XLA's fusion emitters, as a policy under the planner does.

    On a CPU with jaxlib 0.10 it does without them, unless `XLA_FLAGS` says otherwise: most programs
    compile in a third to two thirds of the time, and some, e.g. trainings, run slower
    (docs/performance.md). Within another traced function it is the function itself.
    """
    return _jit(function, {}, static_argnums)


def fast_options(options: Mapping[str, int] | None = None) -> dict[str, int] | None:
    """`compiler_options` of `jax.jit` as `jit_compile_fast` chooses them for this device.

    For a function that is called often and never within another traced one: it is spared the look
    at whether it is, in each call.

    Args:
      options: further ones, on CPUs.
    """
    if jax.default_backend() != "cpu":
        return None
    chosen = dict(options or {})
    # Later versions of jaxlib have no choice.
    if JAXLIB_VERSION.startswith("0.10.") and _EMITTERS not in os.environ.get("XLA_FLAGS", ""):
        chosen[_EMITTERS] = False
    return chosen or None


def _jit(
    function: Callable[..., Any], options: dict[str, int], static_argnums: int | tuple[int, ...]
) -> Callable[..., Any]:
    """Compiled with options for CPUs, and without fusion emitters there."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        chosen = fast_options(options)
        return jax.jit(function, static_argnums=static_argnums, compiler_options=chosen)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        # JAX takes compiler options for the outermost program alone.
        traced = isinstance(jnp.zeros(()), Tracer)
        return (function if traced else compiled())(*args)

    return call
