"""Tables and figures as HTML. Everything from files is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape


def number(value: float, digits: int = 3) -> str:
    """Returns ``value`` with that many significant digits; a dash if it is not finite."""
    if not math.isfinite(value):
        return "–"
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}·10^{int(exponent)}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}".replace("-", "−")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Returns a table; cells that look like numbers are set right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def definitions(entries: Sequence[tuple[str, str]]) -> str:
    """Returns a list of names with their values; empty values are left out."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries if value
    )
    return f"<dl>{items}</dl>"


def figure(png: bytes, description: str, caption: str = "", *, wide: bool = False) -> str:
    """Returns a picture that is part of the page."""
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


def _cell(text: str) -> str:
    numeric = text[:1].isdigit() or text[:1] in "−+–" or text.startswith("[")
    return f'<td class="number">{escape(text)}</td>' if numeric else f"<td>{escape(text)}</td>"
