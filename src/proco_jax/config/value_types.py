"""Whether a config holds what its classes declare: dataclasses check nothing themselves."""

import dataclasses
import types
import typing
from typing import Any


def type_problems(section: Any, prefix: str = "") -> list[str]:
    """Settings that no class declares, and values of another type than declared.

    Args:
      section: a dataclass of dataclasses, strings, numbers, bools and tuples.
      prefix: of the settings' names.

    Returns:
      A line for each: the setting, what was found, and what is expected.
    """
    declared = typing.get_type_hints(type(section))
    problems = [
        f"--config.{prefix}{name}: found {value!r}, but there is no such setting"
        for name, value in vars(section).items()
        if name not in declared
    ]
    for name, kind in declared.items():
        value = getattr(section, name)
        if isinstance(kind, type) and dataclasses.is_dataclass(value) and isinstance(value, kind):
            problems += type_problems(value, f"{prefix}{name}.")
        elif not _is(value, kind):
            problems.append(f"--config.{prefix}{name}: found {value!r}, expected {_words(kind)}")
    return problems


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.GenericAlias):
        inner = _inner(kind, value) if isinstance(value, tuple) else ()
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_is, value, inner))
    if kind in (int, float):
        accepted = int if kind is int else (int, float)
        return isinstance(value, accepted) and not isinstance(value, bool)
    return isinstance(value, kind)


def _inner(kind: Any, value: tuple) -> tuple[Any, ...]:
    """The types of a tuple's items; `tuple[int, ...]` takes any number of them."""
    inner = typing.get_args(kind)
    return (inner[0],) * len(value) if inner[-1] is Ellipsis else inner


def _words(kind: Any) -> str:
    if isinstance(kind, types.GenericAlias):
        first, *rest = typing.get_args(kind)
        return f"a tuple of {'any number' if Ellipsis in rest else len(rest) + 1} {first.__name__}s"
    return f"a value of type {kind.__name__}"
