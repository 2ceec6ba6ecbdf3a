"""Offline algorithms, one file each, and where to find them by name."""

import importlib
from collections.abc import Callable
from typing import Any, cast

from proco_jax.algorithms import bc, bcq_lag, bear_lag, cdt, coptidice, cpq, fisor, proco
from proco_jax.algorithms.base import Algorithm
from proco_jax.config.schema import Config
from proco_jax.types import TaskSpec

MAKERS: dict[str, Callable[[Config, TaskSpec], Algorithm]] = {
    "proco": proco.make,
    "bc": bc.make,
    "bcq_lag": bcq_lag.make,
    "bear_lag": bear_lag.make,
    "cpq": cpq.make,
    "coptidice": coptidice.make,
    "cdt": cdt.make,
    "fisor": fisor.make,
}


def make_algorithm(name: str, config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm of a name.

    Args:
      name: one of `MAKERS`, or `module:function` for one of your own: a function of
        (config, task) to an `Algorithm`.
      config: of the run.
      task: what the algorithm learns.

    Raises:
      ValueError: as `find_maker`.
    """
    return find_maker(name)(config, task)


def find_maker(name: str) -> Callable[[Config, TaskSpec], Algorithm]:
    """The function that makes the algorithm of a name.

    Raises:
      ValueError: on an unknown name, or a module or function that cannot be imported.
    """
    if name in MAKERS:
        return MAKERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        expected = f"one of {sorted(MAKERS)} or module:function"
        raise ValueError(f"algorithm: found {name!r}, expected {expected}")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"algorithm {name!r}: cannot import it ({error})") from error
    if not callable(found):
        raise ValueError(f"algorithm {name!r}: {function} is no function")
    maker: Callable[[Config, TaskSpec], Algorithm] = cast(Any, found)
    return maker
