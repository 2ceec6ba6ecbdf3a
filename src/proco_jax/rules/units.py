"""Units of measurement, their dimensions and factors."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

Dimension = tuple[tuple[str, Fraction], ...]

PLAIN: Dimension = ()
# Of a truth that joins comparisons of different dimensions.
SEVERAL: Dimension = (("several units", Fraction(1)),)

# Symbol: factor to the base unit, and the exponents of the base units.
_KNOWN: dict[str, tuple[float, dict[str, int]]] = {
    "m": (1.0, {"m": 1}),
    "cm": (0.01, {"m": 1}),
    "mm": (0.001, {"m": 1}),
    "km": (1000.0, {"m": 1}),
    "s": (1.0, {"s": 1}),
    "ms": (0.001, {"s": 1}),
    "min": (60.0, {"s": 1}),
    "h": (3600.0, {"s": 1}),
    "kg": (1.0, {"kg": 1}),
    "N": (1.0, {"kg": 1, "m": 1, "s": -2}),
    "T": (1.0, {"T": 1}),
    "rad": (1.0, {"rad": 1}),
    "deg": (math.pi / 180.0, {"rad": 1}),
}

_SYMBOL = r"[A-Za-z%°µ]+"
_FACTOR = rf"{_SYMBOL}(?:\^-?[1-9])?"
_EXPRESSION = re.compile(rf"{_FACTOR}(?:[/*]{_FACTOR})*")
_PART = re.compile(rf"([/*]?)({_SYMBOL})(?:\^(-?[1-9]))?")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit.

    Attributes:
      factor: what one of it is in base units (m, s, kg, T, rad, and whatever
        else a field is measured in).
      dimension: exponents of the base units, sorted by name, none of them 0.
    """

    factor: float
    dimension: Dimension


def parse_unit(text: str, own: Iterable[str] = ()) -> Unit:
    """Reads a unit such as `m/s^2`.

    Args:
      text: the unit, without spaces.
      own: symbols that are units of their own, beside the built-in ones.

    Raises:
      ValueError: if it is not a product or quotient of known symbols.
    """
    own = set(own)
    if not _EXPRESSION.fullmatch(text):
        raise ValueError(f"{text!r} is not a unit; write for example m, m/s, rad/s or m/s^2")
    factor, exponents = 1.0, {}
    for operator, symbol, power in _PART.findall(text):
        if symbol not in _KNOWN and symbol not in own:
            raise ValueError(f"unknown unit {symbol!r}; known are {', '.join(known_units(own))}")
        scale, base = _KNOWN.get(symbol, (1.0, {symbol: 1}))
        exponent = int(power or 1) * (-1 if operator == "/" else 1)
        factor *= scale**exponent
        for name, times in base.items():
            exponents[name] = exponents.get(name, Fraction(0)) + times * exponent
    return Unit(factor, _dimension(exponents))


def match_unit(text: str, position: int, own: Iterable[str] = ()) -> tuple[Unit, int] | None:
    """The longest unit that starts at a position, and where it ends; or None.

    A name that continues the text (`m_1`, `meters`) is no unit.
    """
    own = set(own)
    found = None
    start = re.compile(_FACTOR)
    end = position
    while match := start.match(text, end):
        symbol = match.group().partition("^")[0]
        name_goes_on = text[match.end() : match.end() + 1].isalnum() or text.startswith(
            ("_", "(", "."), match.end()
        )
        if (symbol not in _KNOWN and symbol not in own) or name_goes_on:
            break
        found = (parse_unit(text[position : match.end()], own), match.end())
        if text[match.end() : match.end() + 1] not in ("/", "*"):
            break
        end = match.end() + 1
    return found


def field_unit(text: str) -> Unit:
    """The unit of a field; symbols that are not built in are units of their own.

    Prose, such as `closeness in [0, 1]`, is no unit: the numbers are plain.
    """
    if not _EXPRESSION.fullmatch(text):
        return Unit(1.0, PLAIN)
    return parse_unit(text, own_symbols([text]))


def own_symbols(units: Iterable[str]) -> set[str]:
    """The symbols in these units that are not built in."""
    texts = [text for text in units if _EXPRESSION.fullmatch(text)]
    return {symbol for text in texts for _, symbol, _ in _PART.findall(text)} - set(_KNOWN)


def known_units(own: Iterable[str] = ()) -> list[str]:
    """All symbols a rule may use."""
    return [*_KNOWN, *sorted(own)]


def product(a: Dimension, b: Dimension) -> Dimension:
    """The dimension of a product."""
    exponents = dict(a)
    for name, exponent in b:
        exponents[name] = exponents.get(name, Fraction(0)) + exponent
    return _dimension(exponents)


def power(a: Dimension, exponent: Fraction) -> Dimension:
    """The dimension of a power."""
    return _dimension({name: times * exponent for name, times in a})


def show(dimension: Dimension) -> str:
    """The dimension in base units, e.g. `m/s`; `a plain number` for none."""
    over = [_show(name, times) for name, times in dimension if times > 0]
    under = [_show(name, -times) for name, times in dimension if times < 0]
    if not dimension:
        return "a plain number"
    return "/".join(["*".join(over) or "1", *under])


def _dimension(exponents: Mapping[str, Fraction]) -> Dimension:
    return tuple(sorted((name, Fraction(times)) for name, times in exponents.items() if times))


def _show(name: str, times: Fraction) -> str:
    return name if times == 1 else f"{name}^{times}"
