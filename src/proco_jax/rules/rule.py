"""Rules: what is unsafe, as an expression over named fields of the observation."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from proco_jax.observation import ObservationSpec
from proco_jax.rules.functions import FUNCTIONS
from proco_jax.rules.syntax import Call, Name, Node, Number, RuleError, parse
from proco_jax.rules.typecheck import OPERATORS, Refusal, Run, Value
from proco_jax.rules.units import SEVERAL, field_unit, own_symbols, show
from proco_jax.types import Array

_COMPONENTS = "xyz"


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A checked expression for a number, such as a reward.

    Attributes:
      text: as it was written.
      unit: of the number in base units.
    """

    text: str
    unit: str
    run: Run = dataclasses.field(repr=False, compare=False)

    def value(self, obs: Array) -> Array:
        """The number in raw observations `[..., O]`, `[...]`, in base units."""
        return jnp.asarray(self.run(obs))[..., 0]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A checked rule.

    Attributes:
      text: as it was written.
      fields: names of the fields it reads, sorted.
      unit: of its margin in base units; `several units` where comparisons in
        several are joined (each margin is then in its own).
    """

    text: str
    fields: tuple[str, ...]
    unit: str
    run: Run = dataclasses.field(repr=False, compare=False)

    def margin(self, obs: Array) -> Array:
        """Signed distance to the boundary, above 0 where the rule calls a state unsafe.

        `d <= c` has margin c - d; `and` takes the least, `or` the greatest,
        `not` the negative. So the rule widened by w is `margin >= -w`, each
        comparison in its own unit.

        Args:
          obs: `[..., O]` raw observations.

        Returns:
          `[...]`.
        """
        return jnp.asarray(self.run(obs))[..., 0]

    def unsafe(self, obs: Array, widening: float = 0.0) -> Array:
        """`[...]` booleans: whether the rule, widened, calls these states unsafe."""
        return self.margin(obs) >= -widening


def one_unit(rules: Sequence[Rule]) -> bool:
    """Whether all comparisons of these rules, one or more, have the same unit."""
    units = {rule.unit for rule in rules}
    return len(units) == 1 and units != {show(SEVERAL)}


def voted_margin(rules: Sequence[Rule], obs: Array) -> Array:
    """The margin `[...]` that half of the rules or more have or exceed in raw obs `[..., O]`.

    So the set where it is at least -w is the one that half of the rules, each widened by w, call
    unsafe. It is infinite where that depends on rules that cannot tell, whose margin is no number.
    Where the rules have different units, its sign alone has a meaning.
    """
    margins = jnp.stack([rule.margin(obs) for rule in rules])
    margins = jnp.where(jnp.isnan(margins), jnp.inf, margins)
    return jnp.sort(margins, axis=0)[len(rules) // 2]


def parse_rule(text: str, spec: ObservationSpec) -> Rule:
    """Reads and checks a rule against the fields of an observation.

    Raises:
      RuleError: with position and reason: bad syntax, unknown field or
        function, units that don't fit, or a rule that says nothing of a state.
    """
    own = own_symbols(f.unit for f in spec.fields)
    tree = parse(text, own)
    fields: set[str] = set()
    value = _check(tree, text, spec, fields)
    if not value.truth:
        raise RuleError(
            f"a rule is true or false of a state, found a quantity in {show(value.dimension)};"
            " compare it, for example with <= 0.2 m",
            tree.position,
            text,
        )
    if value.size != 1:
        raise RuleError(
            f"the rule says something of each of {value.size} numbers;"
            " put any(...) or all(...) around it",
            tree.position,
            text,
        )
    if not fields:
        raise RuleError("the rule reads no field of the observation", tree.position, text)
    return Rule(text.strip(), tuple(sorted(fields)), show(value.dimension), value.run)


def parse_quantity(text: str, spec: ObservationSpec) -> Quantity:
    """Reads and checks an expression for one number, in the language of rules.

    Raises:
      RuleError: as `parse_rule`, or if the expression is true or false, or several numbers.
    """
    tree = parse(text, own_symbols(f.unit for f in spec.fields))
    fields: set[str] = set()
    value = _check(tree, text, spec, fields)
    if value.truth or value.size != 1 or not fields:
        reason = "expected one number made from fields of the observation"
        found = "something true or false" if value.truth else f"{value.size} numbers"
        found = found if fields else "no field"
        raise RuleError(f"{reason}, found {found}", tree.position, text)
    return Quantity(text.strip(), show(value.dimension), value.run)


def _check(node: Node, text: str, spec: ObservationSpec, fields: set[str]) -> Value:
    if isinstance(node, Number):
        return _constant(node)
    if isinstance(node, Name):
        return _field(node, text, spec, fields)
    arguments = [_check(argument, text, spec, fields) for argument in node.arguments]
    try:
        return _checker(node, text)(arguments)
    except Refusal as refusal:
        name = node.name if node.name in OPERATORS else f"{node.name}()"
        raise RuleError(f"{name} {refusal}", node.position, text) from None


def _constant(node: Number) -> Value:
    number = node.value
    plain_zero = number == 0 and not node.unit.dimension
    return Value(lambda obs: number, node.unit.dimension, constant=True, zero=plain_zero)


def _checker(node: Call, text: str):
    if node.name in OPERATORS:
        return OPERATORS[node.name]
    if node.name in FUNCTIONS:
        return FUNCTIONS[node.name].check
    known = ", ".join(f.signature for f in FUNCTIONS.values())
    raise RuleError(f"no function {node.name!r}; there are {known}", node.position, text)


def _field(node: Name, text: str, spec: ObservationSpec, fields: set[str]) -> Value:
    try:
        field = spec.field(node.name)
    except KeyError as error:
        raise RuleError(str(error.args[0]), node.position, text) from None
    fields.add(field.name)
    where = spec.slices[field.name]
    unit = field_unit(field.unit)
    picked = _picked(node, field.size, text)
    columns = np.arange(where.start, where.stop)
    if picked is not None:
        columns = columns[picked]
    run = _reader(columns, unit.factor)
    return Value(
        run,
        unit.dimension,
        len(columns),
        field=field if picked is None else None,
        planar=field.kind == "vector" and picked in (None, [0, 1]),
    )


def _reader(columns: np.ndarray, factor: float) -> Run:
    if factor == 1.0:
        return lambda obs: jnp.asarray(obs)[..., columns]
    return lambda obs: jnp.asarray(obs)[..., columns] * factor


def _picked(node: Name, size: int, text: str) -> list[int] | None:
    """Which numbers of the field, or None for the whole of it."""
    if node.index is not None:
        if node.index >= size:
            reason = f"{node.name} has {size} numbers, [0] to [{size - 1}], found [{node.index}]"
            raise RuleError(reason, node.position, text)
        return [node.index]
    if not node.components:
        return None
    known = _COMPONENTS[:size]
    if not set(node.components) <= set(known) or len(set(node.components)) != len(node.components):
        reason = f"{node.name} has the components {', '.join(known)}, found {node.components!r}"
        raise RuleError(reason, node.position, text)
    return [known.index(c) for c in node.components]
