"""Self-contained HTML pages: pictures as data URIs, sortable tables, light and dark, no network."""

import base64
import html
import json
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      text: what is shown.
      value: number that the column is sorted by; None sorts by the text, or last among numbers.
      tone: `better` or `worse` to highlight the cell, or empty.
    """

    text: str
    value: float | None = None
    tone: str = ""


class Table(NamedTuple):
    """A table.

    Attributes:
      title: heading above it.
      caption: what its columns are.
      header: names of the columns.
      rows: of cells.
      text_columns: the first columns, which hold text.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: list[list[Cell]]
    text_columns: int


class Section(NamedTuple):
    """A part of a page: its heading, and its content as HTML."""

    heading: str
    content: str


def page(
    title: str, lead: Sequence[Section], sections: Sequence[Section], data: Mapping[str, Any]
) -> str:
    """A whole HTML document.

    Args:
      title: of the page.
      lead: shown as cards below the title: what a reader must know first.
      sections: one below the other, listed as links below the lead.
      data: JSON data embedded in the page (`<script type="application/json" id="data">`), so that
        its exact numbers can be read back.

    Raises:
      ValueError: if the data hold a number that is not finite.
    """
    cards = "".join(
        f'<section class="card"><h2>{_escaped(heading)}</h2>{content}</section>'
        for heading, content in lead
    )
    names = [f"section-{i + 1}" for i in range(len(sections))]
    links = " · ".join(
        f'<a href="#{name}">{_escaped(section.heading)}</a>'
        for name, section in zip(names, sections, strict=True)
    )
    body = "".join(
        f'<section id="{name}"><h2>{_escaped(heading)}</h2>{content}</section>'
        for name, (heading, content) in zip(names, sections, strict=True)
    )
    # "<" inside of a script could end it.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{_escaped(title)}</h1>\n<div class="cards">{cards}</div>\n<nav>{links}</nav>\n'
        f'{body}\n</main>\n<script type="application/json" id="data">{embedded}</script>\n'
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{_escaped(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{_escaped(line)}</li>" for line in lines) + "</ul>"


def table_html(table: Table) -> str:
    """A table whose columns are sorted by a click on their headings, and its caption."""
    heads = "".join(
        f'<th scope="col"{_numeric(i, table)}><button type="button">{_escaped(name)}</button></th>'
        for i, name in enumerate(table.header)
    )
    rows = "".join(
        "<tr>" + "".join(_cell_html(i, cell, table) for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f'</div><p class="caption">{_escaped(table.caption)}</p>'
    )


def picture_html(path: Path, alternative: str, caption: str) -> str:
    """A picture inside of the page, e.g. a PNG file, on a white ground in both color schemes."""
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{_escaped(alternative)}" src="data:{kind};base64,{content}">'
        f"<figcaption>{_escaped(caption)}</figcaption></figure>"
    )


def _cell_html(column: int, cell: Cell, table: Table) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    classes = [name for name in ("num" if column >= table.text_columns else "", cell.tone) if name]
    style = f' class="{" ".join(classes)}"' if classes else ""
    return f"<td{style}{value}>{_escaped(cell.text)}</td>"


def _numeric(column: int, table: Table) -> str:
    return ' class="num"' if column >= table.text_columns else ""


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


# Nothing is loaded from anywhere, whatever the texts of a page are.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --card: #f4f6f9; --text: #20242b;
  --muted: #5d6570; --line: #d9dde3; --link: #0062a3; --better: #d9f2e3; --worse: #fbe3d6; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181d; --card: #1f242b; --text: #e6e9ee;
  --muted: #a2abb7; --line: #3a424d; --link: #7fbdf0; --better: #14442b; --worse: #5a2f17; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 16px; }
h2 { font-size: 1.2rem; margin: 36px 0 10px; }
a { color: var(--link); }
nav { margin: 18px 0 0; color: var(--muted); }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; }
.card h2 { font-size: 1rem; margin: 0 0 6px; }
.card p { margin: 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; }
th, td { padding: 5px 10px; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
th { background: var(--card); vertical-align: bottom; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort="ascending"] button::after { content: " \\25B2"; }
th[aria-sort="descending"] button::after { content: " \\25BC"; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.better { background: var(--better); }
.worse { background: var(--worse); }
.caption, figcaption { color: var(--muted); font-size: 0.85rem; max-width: 90ch; }
figure { margin: 18px 0; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 8px; padding: 6px;
  border: 1px solid var(--line); }
@media print { .scroll { overflow: visible; border: 0; } th, td { white-space: normal; } }
"""
_SCRIPT = """
for (const head of document.querySelectorAll("th")) {
  head.firstChild.addEventListener("click", () => {
    const row = head.parentNode, body = row.parentNode.parentNode.tBodies[0];
    const column = [...row.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    const numeric = head.classList.contains("num");
    const key = (line) => {
      const cell = line.children[column];
      if (!numeric) return cell.textContent;
      return "value" in cell.dataset ? Number(cell.dataset.value) : null;
    };
    const lines = [...body.rows].sort((one, other) => {
      const a = key(one), b = key(other);
      if (a === null || b === null) return (a === null) - (b === null);
      const order = numeric ? a - b : a.localeCompare(b, undefined, { numeric: true });
      return down ? -order : order;
    });
    for (const other of row.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...lines);
  });
}
"""
