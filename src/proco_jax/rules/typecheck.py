"""Typed values of the rule language and its operators.

Every value is an array `[..., n]`: n is 1 for a single number, the number of
bins for something said of each bin of a ring. Constants are plain floats.
Truth is represented by a margin: the amount by which a comparison holds, in its own unit,
above 0 where it holds (Donze and Maler 2010, robustness of signal predicates).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import jax.numpy as jnp

from proco_jax.observation import Field
from proco_jax.rules.units import PLAIN, SEVERAL, Dimension, power, product, show
from proco_jax.types import Array

Run = Callable[[Array], Array | float]


class Refusal(ValueError):
    """A function does not accept its arguments; the message says why."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A checked part of a rule.

    Attributes:
      run: observations `[..., O]` to `[..., n]`, or a float for a constant.
      dimension: of the numbers; for a truth, of its margin.
      size: n.
      truth: whether it is true or false rather than a quantity.
      field: the field, where the value is a whole field and nothing else.
      planar: whether it is a vector in the plane: a vector field or its components xy.
      constant: whether no observation matters to it.
      zero: whether it is the literal 0, which suits every unit.
    """

    run: Run
    dimension: Dimension = PLAIN
    size: int = 1
    truth: bool = False
    field: Field | None = None
    planar: bool = False
    constant: bool = False
    zero: bool = False


def take(arguments: Sequence[Value], low: int, high: int | None = None) -> None:
    high = low if high is None else high
    if not low <= len(arguments) <= high:
        expected = f"{low}" if low == high else f"{low} to {high}"
        raise Refusal(f"takes {expected} arguments, found {len(arguments)}")


def quantities(arguments: Sequence[Value]) -> None:
    if any(a.truth for a in arguments):
        raise Refusal("takes quantities, found something true or false")


def truths(arguments: Sequence[Value]) -> None:
    if not all(a.truth for a in arguments):
        raise Refusal("takes something true or false, such as a comparison, found a quantity")


def common_size(arguments: Sequence[Value]) -> int:
    sizes = sorted({a.size for a in arguments if a.size > 1})
    if len(sizes) > 1:
        raise Refusal(f"cannot pair {sizes[0]} numbers with {sizes[1]} numbers")
    return sizes[0] if sizes else 1


def same_unit(arguments: Sequence[Value]) -> Dimension:
    dimensions = [a.dimension for a in arguments if not a.zero]
    for dimension in dimensions[1:]:
        if dimension != dimensions[0]:
            raise Refusal(f"cannot mix {show(dimensions[0])} with {show(dimension)}")
    return dimensions[0] if dimensions else PLAIN


def ring_of(value: Value) -> Field:
    if value.field is None or value.field.kind != "ring":
        raise Refusal("takes a ring field here, such as a lidar, by its name")
    return value.field


def planar(value: Value) -> None:
    if not value.planar:
        raise Refusal("takes a vector field here, such as velocity or velocity.xy")


def combine(
    arguments: Sequence[Value], dimension: Dimension, run: Run, truth: bool = False
) -> Value:
    constant = all(a.constant for a in arguments)
    return Value(run, dimension, common_size(arguments), truth, constant=constant)


def several(value: Value) -> Run:
    """What computes a value of several numbers."""
    if value.size < 2:
        raise Refusal("takes several numbers, such as a whole field, found one number")
    return value.run


def _sum_of(sign: int) -> Callable[[Sequence[Value]], Value]:
    def check(arguments: Sequence[Value]) -> Value:
        quantities(arguments)
        left, right = arguments
        return combine(
            arguments, same_unit(arguments), lambda obs: left.run(obs) + sign * right.run(obs)
        )

    return check


def _negative(arguments: Sequence[Value]) -> Value:
    quantities(arguments)
    (value,) = arguments
    return combine(arguments, value.dimension, lambda obs: -value.run(obs))


def _times(arguments: Sequence[Value]) -> Value:
    quantities(arguments)
    left, right = arguments
    dimension = product(left.dimension, right.dimension)
    return combine(arguments, dimension, lambda obs: left.run(obs) * right.run(obs))


def _over(arguments: Sequence[Value]) -> Value:
    quantities(arguments)
    left, right = arguments
    if right.zero:
        raise Refusal("divides by 0")
    dimension = product(left.dimension, power(right.dimension, Fraction(-1)))
    return combine(arguments, dimension, lambda obs: left.run(obs) / _not_zero(right.run(obs)))


def _not_zero(x: Array | float) -> Array:
    x = jnp.asarray(x)
    return jnp.where(x == 0, jnp.asarray(1e-12, x.dtype), x)


def _at_most(arguments: Sequence[Value]) -> Value:
    quantities(arguments)
    left, right = arguments
    return combine(
        arguments, same_unit(arguments), lambda obs: right.run(obs) - left.run(obs), truth=True
    )


def _at_least(arguments: Sequence[Value]) -> Value:
    return _at_most(arguments[::-1])


def _mixed(arguments: Sequence[Value]) -> Dimension:
    """The common unit of several truths."""
    dimensions = {a.dimension for a in arguments}
    return dimensions.pop() if len(dimensions) == 1 else SEVERAL


def _both(arguments: Sequence[Value]) -> Value:
    truths(arguments)
    a, b = arguments
    run = lambda obs: jnp.minimum(a.run(obs), b.run(obs))  # noqa: E731
    return combine(arguments, _mixed(arguments), run, truth=True)


def _either(arguments: Sequence[Value]) -> Value:
    truths(arguments)
    a, b = arguments
    run = lambda obs: jnp.maximum(a.run(obs), b.run(obs))  # noqa: E731
    return combine(arguments, _mixed(arguments), run, truth=True)


def _opposite(arguments: Sequence[Value]) -> Value:
    truths(arguments)
    (a,) = arguments
    return combine(arguments, a.dimension, lambda obs: -a.run(obs), truth=True)


OPERATORS: Mapping[str, Callable[[Sequence[Value]], Value]] = {
    "+": _sum_of(1),
    "-": _sum_of(-1),
    "negative": _negative,
    "*": _times,
    "/": _over,
    "<=": _at_most,
    "<": _at_most,
    ">=": _at_least,
    ">": _at_least,
    "and": _both,
    "or": _either,
    "not": _opposite,
}
