"""Knowledge files: a plain-language description of what is unsafe, and of the observation.

A knowledge file is Markdown with these sections:

    # SafetyPointGoal1
    ## What is unsafe      free text, for people and language models
    ## Observation         a table of the fields: field, size, kind, unit, reach, meaning
    ## Rule                the same as a rule, in a code block (optional)
    ## Provenance          who wrote the rule, and from which sources (required with a rule)

A description of a system of the user's own (`system/description.py`) is such a file with the
additional sections Action, System, Columns and Reward, which do not concern the knowledge.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from proco_jax.common.shipped import find_shipped, shipped_experiments
from proco_jax.observation import Field, ObservationSpec
from proco_jax.rules.rule import Rule, parse_rule
from proco_jax.rules.syntax import RuleError

MAX_TEXT = 8000
# Of a field or an action.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_COLUMNS = ("field", "size", "kind", "unit", "reach", "meaning")
_NEEDED = ("What is unsafe", "Observation")
SYSTEM_SECTIONS = ("Action", "System", "Columns", "Reward")
_KNOWN = (*_NEEDED, "Rule", "Provenance", *SYSTEM_SECTIONS)


class KnowledgeError(ValueError):
    """A knowledge file cannot be used; the message says what is wrong and what to do."""


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """A knowledge file.

    Attributes:
      name: its heading, for a shipped file the task.
      text: what is unsafe, in plain language.
      spec: the fields of the observation.
      rule: the grounding that is written in the file; None where there is none.
      provenance: who wrote the rule.
    """

    name: str
    text: str
    spec: ObservationSpec
    rule: Rule | None
    provenance: str


def load_knowledge(source: str | Path, spec: ObservationSpec | None = None) -> Knowledge:
    """Reads a knowledge file and checks it.

    Args:
      source: the name of a shipped task, or the path of a file.
      spec: the fields of the data, which the file's must equal in name, size
        and kind; None takes the file's own.

    Raises:
      KnowledgeError: if there is no such file, a section is missing, the
        fields are not the data's, or the rule is refused.
    """
    path = _path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KnowledgeError(f"cannot read the knowledge file {path}: {error}") from None
    try:
        return parse_knowledge(text, spec)
    except (KnowledgeError, RuleError) as error:
        raise KnowledgeError(f"{path}: {error}") from None


def parse_knowledge(text: str, spec: ObservationSpec | None = None) -> Knowledge:
    """`load_knowledge` for the text of a file.

    Raises:
      KnowledgeError, RuleError: as there.
    """
    name, sections = read_sections(text)
    for needed in _NEEDED:
        if not sections.get(needed):
            raise KnowledgeError(f"the section '## {needed}' is missing or empty")
    unknown = [s for s in sections if s not in _KNOWN]
    if unknown:
        raise KnowledgeError(f"unknown section '## {unknown[0]}'; there are {', '.join(_KNOWN)}")
    if len(sections["What is unsafe"]) > MAX_TEXT:
        raise KnowledgeError(f"'## What is unsafe' has more than {MAX_TEXT} characters")
    own = read_table(sections["Observation"])
    if spec is not None:
        _same_fields(own, spec)
    rule_text = code_block(sections.get("Rule", ""))
    if rule_text and not sections.get("Provenance"):
        raise KnowledgeError("a rule needs a section '## Provenance': who wrote it, from what")
    rule = parse_rule(rule_text, own) if rule_text else None
    return Knowledge(name, sections["What is unsafe"], own, rule, sections.get("Provenance", ""))


def write_table(spec: ObservationSpec) -> str:
    """The section `Observation` for these fields."""
    lines = [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    for f in spec.fields:
        reach = f"{f.reach:g} m" if f.kind == "ring" else ""
        lines.append(_row([f.name, str(f.size), f.kind, f.unit, reach, f.meaning]))
    return "\n".join(lines)


def read_table(text: str) -> ObservationSpec:
    """Reads what `write_table` wrote.

    Raises:
      KnowledgeError: naming the row that is wrong.
    """
    rows = table_rows(text, "Observation", _COLUMNS)
    try:
        return ObservationSpec(tuple(_read_row(row) for row in rows))
    except ValueError as error:
        raise KnowledgeError(f"'## Observation': {error}") from None


def _path(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix == ".md" or path.exists():
        return find_shipped(path)
    shipped = shipped_experiments() / "knowledge" / f"{source}.md"
    if not shipped.exists():
        raise KnowledgeError(
            f"no knowledge is shipped for {str(source)!r} ({shipped} does not exist);"
            " name a file with --config.knowledge.file=PATH.md"
        )
    return shipped


def read_sections(text: str) -> tuple[str, dict[str, str]]:
    """The name in the heading of a Markdown file, and its sections by their titles.

    Raises:
      KnowledgeError: without a heading, or if a section stands twice.
    """
    name, title, sections, fenced = "", "", {}, False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("# ") and not fenced:
            name = line[2:].strip()
        elif line.startswith("## ") and not fenced:
            title = line[3:].strip()
            if title in sections:
                raise KnowledgeError(f"the section '## {title}' stands twice")
            sections[title] = ""
        elif title:
            sections[title] += line + "\n"
    if not name:
        raise KnowledgeError("the first line must be a heading with a name, e.g. '# MyTask'")
    return name, {title: body.strip() for title, body in sections.items()}


def code_block(section: str, title: str = "Rule") -> str:
    """The code block of a section; empty for an empty section.

    Raises:
      KnowledgeError: if there is not exactly one.
    """
    blocks = re.findall(r"```[a-z]*\n(.*?)```", section, re.DOTALL)
    if section and len(blocks) != 1:
        raise KnowledgeError(f"'## {title}' needs one code block, found {len(blocks)}")
    return blocks[0].strip() if blocks else ""


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table_rows(section: str, title: str, columns: Sequence[str]) -> list[list[str]]:
    """The cells of a section's Markdown table, row by row, without its head.

    Raises:
      KnowledgeError: unless there is a table with these columns and at least one row, and every
        row has as many cells.
    """
    lines = [line.strip() for line in section.splitlines() if line.strip().startswith("|")]
    if len(lines) < 3 or _cells(lines[0]) != list(columns):
        raise KnowledgeError(f"'## {title}' needs a table with columns {', '.join(columns)}")
    rows = [_cells(line) for line in lines[2:]]
    for line, row in zip(lines[2:], rows, strict=True):
        if len(row) != len(columns):
            raise KnowledgeError(
                f"'## {title}': expected {len(columns)} cells, found {len(row)}: {line}"
            )
    return rows


def _cells(row: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    return [cell.strip().replace("\\|", "|") for cell in cells]


def _read_row(cells: list[str]) -> Field:
    name, size, kind, unit, reach, meaning = cells
    if not NAME.fullmatch(name):
        raise KnowledgeError(f"{name!r} is no field name: use letters, digits and underscores")
    if not re.fullmatch("[0-9]{1,6}", size):
        raise KnowledgeError(f"field {name!r}: the size is a whole number, found {size!r}")
    if kind not in ("ring", "vector", "flat"):
        raise KnowledgeError(f"field {name!r}: the kind is ring, vector or flat, found {kind!r}")
    found = re.fullmatch(r"([0-9.]+)\s*m", reach)
    if kind == "ring" and not found:
        raise KnowledgeError(f"ring {name!r}: the reach is in meters, like 3 m, found {reach!r}")
    return Field(name, int(size), kind, unit, meaning, float(found[1]) if found else 0.0)


def _same_fields(own: ObservationSpec, data: ObservationSpec) -> None:
    def shape(spec: ObservationSpec) -> list[tuple]:
        return [(f.name, f.size, f.kind, f.reach) for f in spec.fields]

    if shape(own) != shape(data):
        raise KnowledgeError(
            f"the fields are not those of the data: the file has {_listed(own)},"
            f" the data have {_listed(data)}"
        )


def _listed(spec: ObservationSpec) -> str:
    reach = lambda f: f", {f.reach:g} m" if f.kind == "ring" else ""  # noqa: E731
    return ", ".join(f"{f.name}[{f.size}] ({f.kind}{reach(f)})" for f in spec.fields)
