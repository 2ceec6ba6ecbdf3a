"""Programs that are compiled fast on CPUs: those that run once or rarely, or as fast either way.

The compiler's options depend on the device, which JAX looks for at a function's first call.
"""

import functools
import os
from collections.abc import Callable
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


def _jit(
    function: Callable[..., Any], options: dict[str, int], static_argnums: int | tuple[int, ...]
) -> Callable[..., Any]:
    """Compiled with options for CPUs, and without fusion emitters there."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        chosen = {}
        if jax.default_backend() == "cpu":
            chosen.update(options)
            # Later versions of jaxlib have no choice.
            choice = JAXLIB_VERSION.startswith("0.10.")
            if choice and _EMITTERS not in os.environ.get("XLA_FLAGS", ""):
                chosen[_EMITTERS] = False
        return jax.jit(function, static_argnums=static_argnums, compiler_options=chosen or None)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        # JAX takes compiler options for the outermost program alone.
        traced = isinstance(jnp.zeros(()), Tracer)
        return (function if traced else compiled())(*args)

    # Returns the function of `jax.jit`, e.g. to see how many programs it has compiled.
    call.jitted = compiled  # type: ignore[attr-defined]
    return call
