"""Programs that take longer to compile than to run, compiled fast on CPUs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxlib.version import __version__ as JAXLIB_VERSION

Options = dict[str, bool | int]


def jit_run_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for a function that runs once: on a CPU its program is not optimized.

    Within another traced function, e.g. in `jax.eval_shape`, it is the function itself.
    """
    options = None
    if jax.default_backend() == "cpu":
        options = {"xla_backend_optimization_level": 0} | _without_emitters()
    compiled = jax.jit(function, compiler_options=options)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        # JAX takes compiler options for the outermost program alone.
        traced = isinstance(jnp.zeros(()), jax.core.Tracer)
        return (function if traced else compiled)(*args)

    return call


def quick_to_compile() -> Options | None:
    """Options for a program whose compilation takes about as long as its work.

    Without XLA's fusion emitters a regeneration of rollouts compiles on a CPU in a third of the
    time, and runs no slower (docs/performance.md).

    Returns:
      `compiler_options` of `jax.jit`; None for the defaults.
    """
    return (_without_emitters() or None) if jax.default_backend() == "cpu" else None


def _without_emitters() -> Options:
    # Later versions of jaxlib have no choice.
    return {"xla_cpu_use_fusion_emitters": False} if JAXLIB_VERSION.startswith("0.10.") else {}
