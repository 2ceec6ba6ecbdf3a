"""Programs that take longer to compile than to run, compiled fast on CPUs.

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


def jit_run_rarely(
    function: Callable[..., Any], static_argnums: int | tuple[int, ...] = ()
) -> Callable[..., Any]:
    """`jax.jit` for a function whose compilation takes as long as its work.

    On a CPU with jaxlib 0.10 it does without XLA's fusion emitters, unless `XLA_FLAGS` says
    otherwise: most programs compile in a third to two thirds of the time, and some run slower
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

    return call
