"""Tables and figures as HTML. Everything from files is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Protocol

_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


class Markup(Protocol):
    """A cell that is more than text."""

    def html(self) -> str:
        """Returns the cell's content, escaped."""
        ...


def number(value: float, digits: int = 3) -> str:
    """Returns ``value`` with that many significant digits; a dash if it is not finite."""
    if not math.isfinite(value):
        return "–"
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        power = str(int(exponent)).translate(_RAISED)
        return f"{mantissa}·10{power}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}".replace("-", "−")


def count(value: int) -> str:
    """Returns a whole number with its thousands apart."""
    return f"{value:,}".replace("-", "−")


def byte_size(size: int) -> str:
    """Returns a size in B, kB, MB … of powers of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{size} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str | Markup]],
    caption: str = "",
    *,
    kind: str = "",
) -> str:
    """Returns a table; cells that look like numbers are not broken.

    Args:
        header: Names of the columns.
        rows: Cells, escaped unless they are markup.
        caption: Above the table.
        kind: Class of the table: ``prose`` for sentences, ``digests`` for long strings.
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    opening = f'<table class="{kind}">' if kind else "<table>"
    return (
        f'<div class="scroll">{opening}{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """Returns numbers to be seen first, each above its name."""
    items = "".join(
        f"<div><strong>{escape(value)}</strong><span>{escape(name)}</span></div>"
        for name, value in facts
    )
    return f'<div class="tiles">{items}</div>'


def definitions(entries: Sequence[tuple[str, str]]) -> str:
    """Returns a list of names with their values; empty values are left out."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries if value
    )
    return f"<dl>{items}</dl>"


def figure(png: bytes, description: str, caption: str = "", *, wide: bool = False) -> str:
    """Returns a picture that is part of the page; a wide one has the whole width."""
    data = base64.b64encode(png).decode("ascii")
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = ' class="wide"' if wide else ""
    return (
        f'<figure{kind}><img alt="{escape(description)}" src="data:image/png;base64,{data}">'
        f"{note}</figure>"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Returns ``text`` as a paragraph."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """Returns ``text`` line by line, as it is typed."""
    return f"<pre>{escape(text)}</pre>"


def details(summary: str, content: str) -> str:
    """Returns ``content`` (HTML) folded away under ``summary``."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _cell(cell: str | Markup) -> str:
    if not isinstance(cell, str):
        return f"<td>{cell.html()}</td>"
    numeric = cell[:1].isdigit() or cell[:1] in "−+–" or cell.startswith("[")
    return f'<td class="number">{escape(cell)}</td>' if numeric else f"<td>{escape(cell)}</td>"
