"""The functions of the rule language: arguments, result and computation of each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import jax.numpy as jnp

from proco_jax.rules import ring_functions as rings
from proco_jax.rules.ring_functions import ANGLE
from proco_jax.rules.typecheck import (
    Refusal,
    Value,
    combine,
    quantities,
    same_unit,
    several,
    take,
    truths,
)
from proco_jax.rules.units import PLAIN, Dimension, power, show
from proco_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of the language, as prompts and documents list it."""

    signature: str
    meaning: str
    check: Callable[[Sequence[Value]], Value]


def _apart(name: str) -> Callable[[Sequence[Value]], Value]:
    """`min` or `max`: over the numbers of one value, or between several values."""
    among = {"min": jnp.min, "max": jnp.max}[name]
    between = {"min": jnp.minimum, "max": jnp.maximum}[name]

    def check(arguments: Sequence[Value]) -> Value:
        take(arguments, 1, 8)
        quantities(arguments)
        runs = [a.run for a in arguments]
        if len(runs) == 1:
            run = several(arguments[0])
            return Value(
                lambda obs: among(jnp.asarray(run(obs)), axis=-1, keepdims=True),
                arguments[0].dimension,
            )

        def fold(obs: Array) -> Array:
            result = jnp.asarray(runs[0](obs))
            for run in runs[1:]:
                result = between(result, run(obs))
            return result

        return combine(arguments, same_unit(arguments), fold)

    return check


def _over_all(reduce: Callable[..., Array]) -> Callable[[Sequence[Value]], Value]:
    def check(arguments: Sequence[Value]) -> Value:
        take(arguments, 1)
        quantities(arguments)
        run = several(arguments[0])
        return Value(
            lambda obs: reduce(jnp.asarray(run(obs)), axis=-1, keepdims=True),
            arguments[0].dimension,
        )

    return check


def _length(x: Array, axis: int, keepdims: bool) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axis, keepdims=keepdims))


def _hypot(arguments: Sequence[Value]) -> Value:
    take(arguments, 2)
    quantities(arguments)
    x, y = arguments

    def run(obs: Array) -> Array:
        return jnp.sqrt(jnp.square(x.run(obs)) + jnp.square(y.run(obs)))

    return combine(arguments, same_unit(arguments), run)


def _each(function: Callable[[Array], Array], takes: Dimension | None, gives: Dimension | None):
    """A function of one quantity, bin by bin; None stands for any unit, kept."""

    def check(arguments: Sequence[Value]) -> Value:
        take(arguments, 1)
        quantities(arguments)
        (value,) = arguments
        if takes is not None and value.dimension != takes and not value.zero:
            raise Refusal(f"takes {show(takes)}, found {show(value.dimension)}")
        dimension = value.dimension if gives is None else gives
        return combine(arguments, dimension, lambda obs: function(jnp.asarray(value.run(obs))))

    return check


def _root(arguments: Sequence[Value]) -> Value:
    take(arguments, 1)
    quantities(arguments)
    (value,) = arguments
    dimension = power(value.dimension, Fraction(1, 2))
    return combine(arguments, dimension, lambda obs: jnp.sqrt(jnp.maximum(value.run(obs), 0.0)))


def _bins(reduce: Callable[..., Array]) -> Callable[[Sequence[Value]], Value]:
    def check(arguments: Sequence[Value]) -> Value:
        take(arguments, 1)
        truths(arguments)
        run = several(arguments[0])
        return Value(
            lambda obs: reduce(jnp.asarray(run(obs)), axis=-1, keepdims=True),
            arguments[0].dimension,
            truth=True,
        )

    return check


def _where(arguments: Sequence[Value]) -> Value:
    take(arguments, 3)
    condition, yes, no = arguments
    truths([condition])
    quantities([yes, no])
    run = lambda obs: jnp.where(condition.run(obs) >= 0, yes.run(obs), no.run(obs))  # noqa: E731
    return combine(arguments, same_unit([yes, no]), run)


FUNCTIONS: Mapping[str, Function] = {
    f.signature.partition("(")[0]: f
    for f in (
        Function("nearest(ring)", "distance to the nearest object of a ring, in m", rings.nearest),
        Function("distance(ring)", "distance seen by each bin of a ring, in m", rings.distance),
        Function(
            "gap(ring, x from, x to, y from, y to)",
            "from a box fixed to the machine, given by its sides, to the center of the nearest"
            " object, in m; 0 inside",
            rings.gap,
        ),
        Function(
            "without(ring, other ring, tolerance)",
            "the ring without the objects that the other ring shows as well, within a tolerance in"
            " m (0.1 m if left out), for use in other functions",
            rings.without,
        ),
        Function(
            "angle(ring)",
            "middle of each bin, in rad, counter-clockwise from the x axis",
            rings.angle,
        ),
        Function(
            "bearing(ring)",
            "direction of the nearest object, in rad, counter-clockwise from x",
            rings.bearing,
        ),
        Function(
            "approach(ring, velocity)",
            "speed towards the nearest object, in m/s, negative when receding",
            rings.approach,
        ),
        Function(
            "along(ring, angle)",
            "how far the nearest object lies along a direction, in m, negative behind",
            rings.along,
        ),
        Function(
            "direction(vector)",
            "angle of a vector such as velocity or velocity.xy, in rad, counter-clockwise from x",
            rings.direction,
        ),
        Function("norm(x)", "length of a vector, e.g. norm(velocity.xy)", _over_all(_length)),
        Function("hypot(x, y)", "length of a vector with these two sides", _hypot),
        Function("abs(x)", "size without sign", _each(jnp.abs, None, None)),
        Function("sqrt(x)", "square root", _root),
        Function("sin(angle)", "sine", _each(jnp.sin, ANGLE, PLAIN)),
        Function("cos(angle)", "cosine", _each(jnp.cos, ANGLE, PLAIN)),
        Function("min(x, ...)", "smallest of several values, or over one field", _apart("min")),
        Function("max(x, ...)", "largest of several values, or over one field", _apart("max")),
        Function("sum(x)", "sum over a field or over bins", _over_all(jnp.sum)),
        Function("mean(x)", "mean over a field or over bins", _over_all(jnp.mean)),
        Function("any(condition)", "true where the condition holds in some bin", _bins(jnp.max)),
        Function("all(condition)", "true where the condition holds in every bin", _bins(jnp.min)),
        Function("where(condition, x, y)", "x where the condition holds, else y", _where),
    )
}
