"""One HTML file that needs nothing else, to be read on a screen, a phone or paper."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import epitaxy


def page(title: str, summary: str, sections: Sequence[str]) -> str:
    """Returns the page.

    Args:
        title: Heading, as text.
        summary: What stands below it, as text; who made the page and when is added.
        sections: HTML of the sections; empty ones are left out.
    """
    style = files("epitaxy.report").joinpath("style.css").read_text(encoding="utf-8")
    made = time.strftime("%Y-%m-%d %H:%M %Z")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(summary)}; made by epitaxy {epitaxy.__version__} on {made}</p>'
        f"</header><main>{''.join(sections)}</main></body></html>\n"
    )


def write_page(text: str, out: str | Path) -> Path:
    """Writes a page, replacing one that exists, and returns its path."""
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out)
    return out
