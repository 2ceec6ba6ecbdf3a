"""The functions of the rule language that read rings, such as lidars."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from proco_jax.observation import Field
from proco_jax.rules.typecheck import Refusal, Value, planar, quantities, ring_of, take
from proco_jax.rules.units import parse_unit, show
from proco_jax.types import Array

LENGTH = parse_unit("m").dimension
ANGLE = parse_unit("rad").dimension
SPEED = parse_unit("m/s").dimension
# Default of `without`, in meters.
TOLERANCE = 0.1


def _distances(ring: Field, values: Array) -> Array:
    return ring.reach * (1.0 - values)


def nearest(arguments: Sequence[Value]) -> Value:
    take(arguments, 1)
    ring, run = ring_of(arguments[0]), arguments[0].run
    return Value(lambda obs: _distances(ring, jnp.max(run(obs), -1, keepdims=True)), LENGTH)


def distance(arguments: Sequence[Value]) -> Value:
    take(arguments, 1)
    ring, run = ring_of(arguments[0]), arguments[0].run
    return Value(lambda obs: _distances(ring, jnp.asarray(run(obs))), LENGTH, ring.size)


def angle(arguments: Sequence[Value]) -> Value:
    take(arguments, 1)
    ring, run = ring_of(arguments[0]), arguments[0].run
    angles = [
        math.remainder(2 * math.pi * (i + 0.5) / ring.size, 2 * math.pi) for i in range(ring.size)
    ]

    def everywhere(obs: Array) -> Array:
        values = jnp.asarray(run(obs))
        return jnp.broadcast_to(jnp.asarray(angles, values.dtype), values.shape)

    return Value(everywhere, ANGLE, ring.size)


def bearing_of(values: Array) -> Array:
    """Direction of the nearest object, from a ring's bins `[..., n]` to `[..., 1]` rad.

    An object between two bins is shared between the neighbors of its bin in
    proportion to how close it lies to either, which tells its angle exactly
    when nothing else is near.
    """
    values = jnp.asarray(values)
    bins = values.shape[-1]
    top = jnp.argmax(values, axis=-1, keepdims=True)
    ahead = jnp.take_along_axis(values, (top + 1) % bins, axis=-1)
    behind = jnp.take_along_axis(values, (top - 1) % bins, axis=-1)
    total = ahead + behind
    shift = jnp.where(total > 0, ahead / jnp.where(total > 0, total, 1.0), 0.5)
    angle = (top + shift) * (2 * jnp.pi / bins)
    return (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi


def bearing(arguments: Sequence[Value]) -> Value:
    take(arguments, 1)
    ring_of(arguments[0])
    run = arguments[0].run
    return Value(lambda obs: bearing_of(jnp.asarray(run(obs))), ANGLE)


def approach(arguments: Sequence[Value]) -> Value:
    take(arguments, 2)
    ring_of(arguments[0])
    planar(arguments[1])
    if arguments[1].dimension != SPEED:
        raise Refusal(f"takes a velocity in m/s, found {show(arguments[1].dimension)}")
    ring, velocity = arguments[0].run, arguments[1].run

    def closing(obs: Array) -> Array:
        angle, v = bearing_of(jnp.asarray(ring(obs))), jnp.asarray(velocity(obs))
        return v[..., 0:1] * jnp.cos(angle) + v[..., 1:2] * jnp.sin(angle)

    return Value(closing, SPEED)


def along(arguments: Sequence[Value]) -> Value:
    take(arguments, 2)
    ring, run, angle = ring_of(arguments[0]), arguments[0].run, arguments[1]
    quantities(arguments[1:])
    if angle.size != 1 or (angle.dimension != ANGLE and not angle.zero):
        raise Refusal("takes one angle as its second argument, such as 90 deg")

    def component(obs: Array) -> Array:
        values = jnp.asarray(run(obs))
        reach = _distances(ring, jnp.max(values, -1, keepdims=True))
        return reach * jnp.cos(bearing_of(values) - angle.run(obs))

    return Value(component, LENGTH)


def direction(arguments: Sequence[Value]) -> Value:
    take(arguments, 1)
    planar(arguments[0])
    run = arguments[0].run

    def angle(obs: Array) -> Array:
        v = jnp.asarray(run(obs))
        return jnp.arctan2(v[..., 1:2], v[..., 0:1])

    return Value(angle, ANGLE)


def without(arguments: Sequence[Value]) -> Value:
    """A ring without the objects that another ring shows as well.

    A bin keeps its value where its object is closer than that of the other ring by more than the
    tolerance, a length of 0.1 m unless it is given; else it reads 0.
    """
    take(arguments, 2, 3)
    ring, other = ring_of(arguments[0]), ring_of(arguments[1])
    tolerance = arguments[2] if len(arguments) == 3 else Value(lambda obs: TOLERANCE, LENGTH)
    if ring.size != other.size:
        raise Refusal(f"takes two rings of one size, found {ring.size} and {other.size} bins")
    if tolerance.truth or tolerance.size != 1 or tolerance.dimension != LENGTH:
        raise Refusal("takes a length as its third argument, such as 0.1 m")
    run, other_run = arguments[0].run, arguments[1].run

    def rest(obs: Array) -> Array:
        values, others = jnp.asarray(run(obs)), jnp.asarray(other_run(obs))
        closer = _distances(other, others) - _distances(ring, values)
        return jnp.where(closer > tolerance.run(obs), values, 0.0)

    return Value(rest, size=ring.size, field=ring)


def gap(arguments: Sequence[Value]) -> Value:
    """From a box that is fixed to the agent to the nearest object's center."""
    take(arguments, 5)
    ring, run, sides = ring_of(arguments[0]), arguments[0].run, arguments[1:]
    quantities(sides)
    for side in sides:
        if side.size != 1 or (side.dimension != LENGTH and not side.zero):
            raise Refusal("takes the sides of a box as lengths, such as -0.1 m, after the ring")
    left, right, low, high = (side.run for side in sides)

    def outside(obs: Array) -> Array:
        values = jnp.asarray(run(obs))
        reach, angle = _distances(ring, jnp.max(values, -1, keepdims=True)), bearing_of(values)
        x, y = reach * jnp.cos(angle), reach * jnp.sin(angle)
        dx = jnp.maximum(jnp.maximum(left(obs) - x, x - right(obs)), 0.0)
        dy = jnp.maximum(jnp.maximum(low(obs) - y, y - high(obs)), 0.0)
        return jnp.sqrt(jnp.square(dx) + jnp.square(dy))

    return Value(outside, LENGTH)
