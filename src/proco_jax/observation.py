"""The description of an observation: named fields with units.

The encoder, the reports by sensor group, the rule language and the prompts are derived from it. It
needs no simulator and is stored with every dataset.
"""

import dataclasses
import json
from typing import Any, Literal, get_args

import numpy as np

Kind = Literal["ring", "vector", "flat"]


@dataclasses.dataclass(frozen=True)
class Field:
    """A named range of numbers in an observation.

    Attributes:
      name: as the simulator or the user names it, e.g. `hazards_lidar`.
      size: how many numbers.
      kind: `ring`: bin i looks from 2 pi i / size to 2 pi (i + 1) / size,
        counter-clockwise, in the agent's frame; `vector`: the first two
        numbers are x and y in the agent's frame, so they turn with it; `flat`:
        anything else.
      unit: e.g. `m/s`, `rad/s`, or `closeness in [0, 1]`.
      meaning: one plain sentence.
      reach: for a ring, the distance in meters at which a bin reads 0; a bin
        reads `max(0, reach - d) / reach`. 0 for other kinds.
      group: the sensor group under which reports list the field.
    """

    name: str
    size: int
    kind: Kind
    unit: str
    meaning: str
    reach: float = 0.0
    group: str = ""


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """The fields of an observation, in order.

    Raises:
      ValueError: if names repeat, a size is below 1, or a ring has no reach.
    """

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        if len(set(names)) != len(names):
            raise ValueError(f"observation fields must have distinct names, found {names}")
        for f in self.fields:
            if f.size < 1:
                raise ValueError(f"field {f.name!r:.60} has size {f.size}, expected at least 1")
            if f.kind == "ring" and f.reach <= 0:
                raise ValueError(f"ring field {f.name!r:.60} needs a reach in meters above 0")
            if f.kind == "vector" and f.size < 2:
                raise ValueError(f"vector field {f.name!r:.60} needs x and y, found size {f.size}")

    @property
    def size(self) -> int:
        """The number of numbers in an observation, O."""
        return sum(f.size for f in self.fields)

    @property
    def names(self) -> list[str]:
        """Names of the numbers, `[O]`: of a field of several, `name_0`, `name_1`..."""
        return [
            f.name if f.size == 1 else f"{f.name}_{i}" for f in self.fields for i in range(f.size)
        ]

    @property
    def slices(self) -> dict[str, slice]:
        """Where each field lies."""
        ends = np.cumsum([f.size for f in self.fields])
        return {
            f.name: slice(int(end) - f.size, int(end))
            for f, end in zip(self.fields, ends, strict=True)
        }

    @property
    def rings(self) -> tuple[Field, ...]:
        """The ring fields."""
        return tuple(f for f in self.fields if f.kind == "ring")

    @property
    def vectors(self) -> tuple[Field, ...]:
        """The vector fields."""
        return tuple(f for f in self.fields if f.kind == "vector")

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
          KeyError: naming the fields there are.
        """
        for f in self.fields:
            if f.name == name:
                return f
        known = ", ".join(f.name for f in self.fields)
        raise KeyError(f"no observation field {name!r}; the fields are: {known}")

    def to_json(self) -> str:
        """A JSON text that `from_json` reads back."""
        return json.dumps([dataclasses.asdict(f) for f in self.fields])

    @staticmethod
    def from_json(text: str) -> "ObservationSpec":
        """Reads what `to_json` wrote.

        Raises:
          ValueError: if the text is not such a description.
        """
        try:
            rows: list[dict[str, Any]] = json.loads(text)
            return ObservationSpec(tuple(_checked(Field(**row)) for row in rows))
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"not an observation description: {error}") from error


def _checked(field: Field) -> Field:
    """The field itself, if its values have the right types; raises TypeError."""
    texts = (field.name, field.kind, field.unit, field.meaning, field.group)
    if not all(isinstance(text, str) for text in texts) or field.kind not in get_args(Kind):
        raise TypeError(
            f"found {field!s:.200}, expected texts and a kind of {', '.join(get_args(Kind))}"
        )
    if type(field.size) is not int or type(field.reach) not in (int, float):
        raise TypeError(
            f"found the size {field.size!r:.60} and the reach {field.reach!r:.60} of a field"
        )
    if not np.isfinite(field.reach):
        raise TypeError(f"found the reach {field.reach!r:.60} of a field, expected a finite number")
    return field
