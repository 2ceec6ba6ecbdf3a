"""Nested JSON as Markdown tables, for reports whose keys aren't known beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any

from proco_jax.report.tables import markdown_table, number

# What the keys of a table's rows are, where their name alone doesn't tell.
ROWS = {"r2": "sensor group", "auroc": "steps ahead", "logs": "part"}
# Names that aren't words.
NAMES = {"r2": "R2", "auroc": "AUROC", "v_h": "V_h", "usd": "USD"}
WIDEST = 9


def tidy(content: Mapping[str, Any]) -> str:
    """Tables of a nested mapping, in its own order.

    Plain values share one table. So do inner mappings with the same keys, a
    row each. Lists of mappings become tables with a row for each item.
    """
    plain = {name: value for name, value in content.items() if not _nested(value)}
    blocks = []
    if plain:
        rows = [(_words(name), _cell(value)) for name, value in plain.items()]
        blocks.append(markdown_table(["", "value"], rows))
    for names in _alike({name: value for name, value in content.items() if name not in plain}):
        if len(names) > 1:
            blocks.append(_table("", {name: _flat(content[name]) for name in names}))
        elif content[names[0]]:
            blocks.append(f"**{_words(names[0])}**\n\n{_block(names[0], content[names[0]])}")
    return "\n".join(blocks)


def _alike(content: Mapping[str, Any]) -> list[list[str]]:
    """Names whose values are mappings with the same keys, together; all others alone."""
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
            return _table(ROWS.get(name, ""), rows)
    return tidy(value)


def _table(corner: str, rows: Mapping[str, Mapping[str, Any]], *, keys: bool = True) -> str:
    """A row for each key; turned around where that would be too wide to read."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if keys and len(columns) > WIDEST > len(rows):
        turned = {
            _words(name): {key: row.get(name) for key, row in rows.items()} for name in columns
        }
        return _table("", turned)
    # Keys of rows are names of things, e.g. sensors: they stay as they are.
    lead = [[key] if keys else [] for key in rows]
    cells = [[_cell(row.get(name)) for name in columns] for row in rows.values()]
    header = ([corner] if keys else []) + [_words(name) for name in columns]
    return markdown_table(header, [a + b for a, b in zip(lead, cells, strict=True)])


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Inner mappings under joined names."""
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
    if len(values) <= 8:
        return ", ".join(number(value) for value in values)
    return f"{len(values)} values"


def _words(name: str) -> str:
    return " / ".join(NAMES.get(part, part.replace("_", " ")) for part in name.split(" / "))
