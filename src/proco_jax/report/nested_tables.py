"""Nested JSON as Markdown tables, for reports whose keys are not known beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any

from proco_jax.report.tables import markdown_table, number

# Headings of the first column, by the name of the mapping whose keys it holds.
_FIRST_COLUMN = {"r2": "sensor group", "auroc": "within steps", "logs": "part"}
_NAMES = {"r2": "R2", "auroc": "AUROC", "v_h": "V_h", "q_h": "Q_h", "usd": "USD"}
_MAX_COLUMNS = 9
_MAX_LISTED = 8


def nested_tables(content: Mapping[str, Any]) -> str:
    """Markdown tables of a nested mapping, in the order of its keys.

    Plain values share one table. Inner mappings with the same keys share a table
    with a row each. A list of mappings becomes a table with a row per item.
    """
    plain = {name: value for name, value in content.items() if not _nested(value)}
    blocks = []
    if plain:
        rows = [(_heading(name), _cell(value)) for name, value in plain.items()]
        blocks.append(markdown_table(["", "value"], rows))
    for names in _alike({name: value for name, value in content.items() if name not in plain}):
        if len(names) > 1:
            blocks.append(_table("", {name: _flat(content[name]) for name in names}))
        elif content[names[0]]:
            blocks.append(f"**{_heading(names[0])}**\n\n{_block(names[0], content[names[0]])}")
    return "\n".join(blocks)


def _alike(content: Mapping[str, Any]) -> list[list[str]]:
    """Groups of names whose values are mappings with the same keys; all others alone."""
    groups: dict[Any, list[str]] = {}
    for name, value in content.items():
        flat = _flat(value) if isinstance(value, Mapping) else {}
        simple = flat and not any(_nested(cell) for cell in flat.values())
        groups.setdefault(tuple(flat) if simple else name, []).append(name)
    return list(groups.values())


def _block(name: str, value: Any) -> str:
    if isinstance(value, list):
        return _table("", {str(i): row for i, row in enumerate(value)}, keys=False)
    if all(isinstance(inner, Mapping) for inner in value.values()):
        rows = {key: _flat(inner) for key, inner in value.items()}
        if not any(_nested(cell) for row in rows.values() for cell in row.values()):
            return _table(_FIRST_COLUMN.get(name, ""), rows)
    return nested_tables(value)


def _table(first_column: str, rows: Mapping[str, Mapping[str, Any]], *, keys: bool = True) -> str:
    """A table with a row per key, transposed if it has too many columns."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if keys and len(columns) > _MAX_COLUMNS > len(rows):
        transposed = {
            _heading(name): {key: row.get(name) for key, row in rows.items()} for name in columns
        }
        return _table("", transposed)
    # Keys of rows are names of things, e.g. sensors, and are not reworded.
    lead = [[key] if keys else [] for key in rows]
    cells = [[_cell(row.get(name)) for name in columns] for row in rows.values()]
    header = ([first_column] if keys else []) + [_heading(name) for name in columns]
    return markdown_table(header, [a + b for a, b in zip(lead, cells, strict=True)])


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The mapping without nesting, its keys joined by ` / `."""
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name} / ")
        else:
            flat[prefix + name] = value
    return flat


def _nested(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return _listed(value)
    return _listed(list(value.values())) if isinstance(value, Mapping) else number(value)


def _listed(values: Sequence[Any]) -> str:
    if len(values) <= _MAX_LISTED:
        return ", ".join(number(value) for value in values)
    return f"{len(values)} values"


def _heading(name: str) -> str:
    return " / ".join(_NAMES.get(part, part.replace("_", " ")) for part in name.split(" / "))
