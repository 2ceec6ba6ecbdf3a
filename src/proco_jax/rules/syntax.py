"""The parser of the rule language, a closed language without side effects.

    rule       = and { "or" and }
    and        = not { "and" not }
    not        = "not" not | comparison
    comparison = sum [ ("<=" | "<" | ">=" | ">") sum [ ("<=" | "<") sum ] ]
    sum        = product { ("+" | "-") product }
    product    = sign { ("*" | "/") sign }
    sign       = "-" sign | item
    item       = number [ unit ] | field [ "." components | "[" whole number "]" ]
               | function "(" rule { "," rule } ")" | "(" rule ")"

Nothing is ever evaluated as Python: the tree holds only what is listed here.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

from proco_jax.rules.units import PLAIN, Unit, match_unit

MAX_LENGTH = 2000
MAX_DEPTH = 24
MAX_NODES = 200
MAX_NUMBER = 1e12

_NUMBER = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{0,24})?|\.[0-9]{1,24})(?:[eE][+-]?[0-9]{1,2})?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SIGNS = ("<=", ">=", "<", ">", "+", "-", "*", "/", "(", ")", "[", "]", ",", ".")
_NO_UNIT = Unit(1.0, PLAIN)
_KEYWORDS = ("and", "or", "not")
_COMPARISONS = ("<=", "<", ">=", ">")


class RuleError(ValueError):
    """A rule is rejected; the message says what was found, where, and what is expected.

    Attributes:
      reason: without the position.
      position: index into the text of the rule.
    """

    def __init__(self, reason: str, position: int, text: str) -> None:
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        self.reason = reason
        self.position = position
        super().__init__(f"line {line}, column {column}: {reason}")


@dataclasses.dataclass(frozen=True)
class Number:
    """A number in base units."""

    value: float
    unit: Unit
    position: int


@dataclasses.dataclass(frozen=True)
class Name:
    """A field, or some of its numbers: `components` like `xy`, or an `index`."""

    name: str
    components: str
    index: int | None
    position: int


@dataclasses.dataclass(frozen=True)
class Call:
    """A function, or an operator under its sign."""

    name: str
    arguments: tuple["Node", ...]
    position: int


Node = Number | Name | Call


@dataclasses.dataclass(frozen=True)
class _Token:
    kind: str  # number, name, sign or end
    text: str
    position: int
    unit: Unit = _NO_UNIT


def parse(text: str, own_units: Iterable[str] = ()) -> Node:
    """Reads a rule.

    Raises:
      RuleError: with the position, if the text is no rule or is too long, too
        deep or too large.
    """
    if len(text) > MAX_LENGTH:
        reason = f"the rule has {len(text)} characters, at most {MAX_LENGTH} are allowed"
        raise RuleError(reason, MAX_LENGTH, text)
    return _Parser(text, _tokens(text, set(own_units))).whole()


def _tokens(text: str, own_units: set[str]) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif match := _NUMBER.match(text, at):
            token, at = _number(text, at, match.end(), own_units)
            tokens.append(token)
        elif match := _NAME.match(text, at):
            tokens.append(_Token("name", match.group(), at))
            at = match.end()
        elif sign := next((s for s in _SIGNS if text.startswith(s, at)), None):
            tokens.append(_Token("sign", sign, at))
            at += len(sign)
        else:
            raise RuleError(f"{text[at]!r} has no meaning in a rule", at, text)
    return [*tokens, _Token("end", "the end", len(text))]


def _number(text: str, start: int, end: int, own_units: set[str]) -> tuple[_Token, int]:
    after = end
    while text[after : after + 1] in (" ", "\t"):
        after += 1
    found = match_unit(text, after, own_units)
    if found is None:
        return _Token("number", text[start:end], start), end
    return _Token("number", text[start:end], start, found[0]), found[1]


class _Parser:
    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._nodes = 0

    def whole(self) -> Node:
        node = self._rule()
        if self._peek().kind != "end":
            raise self._unexpected("the end of the rule, or and, or, <=, >=, +, -, *, /")
        return node

    def _rule(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"the rule is nested deeper than {MAX_DEPTH} levels")
        node = self._chain(("or",), lambda: self._chain(("and",), self._not))
        self._depth -= 1
        return node

    def _chain(self, operators: tuple[str, ...], part: Callable[[], Node]) -> Node:
        node = part()
        while self._peek().text in operators and self._peek().kind != "end":
            operator = self._take()
            node = self._call(operator.text, (node, part()), operator.position)
        return node

    def _not(self) -> Node:
        if self._peek().text != "not":
            return self._comparison()
        return self._prefixed("not", self._not)

    def _prefixed(self, name: str, part: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"the rule is nested deeper than {MAX_DEPTH} levels")
        position = self._take().position
        node = self._call(name, (part(),), position)
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._sum()
        if self._peek().text not in _COMPARISONS:
            return left
        sign = self._take()
        right = self._sum()
        node = self._call(sign.text, (left, right), sign.position)
        if self._peek().text not in _COMPARISONS:
            return node
        second = self._take()
        if sign.text[0] != "<" or second.text[0] != "<":
            raise RuleError("only a <= b <= c can be chained", second.position, self._text)
        other = self._call(second.text, (right, self._sum()), second.position)
        return self._call("and", (node, other), sign.position)

    def _sum(self) -> Node:
        return self._chain(("+", "-"), lambda: self._chain(("*", "/"), self._sign))

    def _sign(self) -> Node:
        if self._peek().text == "-":
            return self._prefixed("negative", self._sign)
        return self._item()

    def _item(self) -> Node:
        token = self._peek()
        if token.kind == "number":
            self._take()
            self._count()
            value = float(token.text) * token.unit.factor
            if value > MAX_NUMBER:
                reason = f"{token.text} is beyond the largest number, {MAX_NUMBER:g}"
                raise RuleError(reason, token.position, self._text)
            return Number(value, token.unit, token.position)
        if token.text == "(":
            self._take()
            node = self._rule()
            self._expect(")")
            return node
        if token.kind == "name" and token.text not in _KEYWORDS:
            self._take()
            return self._named(token)
        raise self._unexpected("a number, a field, a function or a parenthesis")

    def _named(self, token: _Token) -> Node:
        if self._peek().text == "(":
            return self._arguments(token)
        self._count()
        if self._peek().text == ".":
            self._take()
            components = self._take()
            if components.kind != "name":
                reason = "after a dot come components such as x"
                raise RuleError(reason, components.position, self._text)
            return Name(token.text, components.text, None, token.position)
        if self._peek().text == "[":
            self._take()
            index = self._take()
            if not re.fullmatch("[0-9]+", index.text) or index.unit.dimension:
                raise RuleError("an index is a whole number", index.position, self._text)
            self._expect("]")
            return Name(token.text, "", int(index.text), token.position)
        return Name(token.text, "", None, token.position)

    def _arguments(self, token: _Token) -> Node:
        self._expect("(")
        arguments = [self._rule()]
        while self._peek().text == ",":
            self._take()
            arguments.append(self._rule())
        self._expect(")")
        return self._call(token.text, tuple(arguments), token.position)

    def _call(self, name: str, arguments: tuple[Node, ...], position: int) -> Call:
        self._count()
        return Call(name, arguments, position)

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(f"the rule has more than {MAX_NODES} parts")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _expect(self, sign: str) -> None:
        if self._peek().text != sign:
            raise self._unexpected(repr(sign))
        self._take()

    def _unexpected(self, expected: str) -> RuleError:
        token = self._peek()
        found = token.text if token.kind == "end" else repr(token.text)
        return self._error(f"found {found}, expected {expected}")

    def _error(self, reason: str) -> RuleError:
        return RuleError(reason, self._peek().position, self._text)
