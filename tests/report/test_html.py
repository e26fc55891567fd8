"""The page holds everything itself, harms nobody, and says what the numbers are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from epitaxy.report.html import write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, references and text; checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _report(folders: Any, out: Path, *, evaluated: bool = True, **options: Any) -> Page:
    runs = []
    for seed in range(3):
        for strategy, mae in (("Scratch", 0.5 + 0.01 * seed), ("Full", 0.4)):
            runs.append(folders.run(f"{strategy}-{seed}", strategy, seed, mae))
            if evaluated:
                folders.evaluation(runs[-1], mae)
    path = write_report(runs, out, **options)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_is_self_contained(folders: Any, tmp_path: Path) -> None:
    page = _report(folders, tmp_path / "deep" / "report.html")
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert page.tags.count("img") == 4  # two of the comparison, one parity plot for each arm
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_the_comparison_is_stated_with_its_interval(folders: Any, tmp_path: Path) -> None:
    """Differences −0.10, −0.11, −0.12: mean −0.11, half width 4.302653 · 0.01/√3 = 0.0248."""
    text = _report(folders, tmp_path / "report.html").text
    assert "full lowers the test MAE of gap by 0.110 eV (22 %) against scratch" in text
    assert "over 3 paired seeds (95 % interval of the difference [−0.135, −0.0852] eV)" in text
    assert "validation errors" not in text


def test_validation_errors_are_called_that(folders: Any, tmp_path: Path) -> None:
    text = _report(folders, tmp_path / "report.html", evaluated=False).text
    assert "full lowers the validation MAE" in text
    assert "These are validation errors" in text


def test_data_filters_and_commands_are_told(folders: Any, tmp_path: Path) -> None:
    text = _report(folders, tmp_path / "report.html").text
    assert "Na Cl Cu" in text
    assert "gap (eV, PBE)" in text
    assert "1 (|forces| > 9: 1)" in text
    assert re.search(r"epitaxy finetune data=\S+gaps finetune=full .*run\.name=Full-0", text)


def test_one_run_has_curves_and_no_comparison(folders: Any, tmp_path: Path) -> None:
    path = write_report([folders.run("only")], tmp_path / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags.count("img") == 1
    assert "From scratch and from a teacher" not in page.text
    assert "Predictions against labels" not in page.text


def test_names_are_text_not_markup(folders: Any, tmp_path: Path) -> None:
    run = folders.run("<script>alert(1)<!--")
    folders.evaluation(run, 0.1)
    path = write_report([run], tmp_path / "report.html", title="<b>bold & brave")
    page = Page(path.read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(page.tags)
    assert "<script>alert(1)<!--" in page.text
    assert "<b>bold & brave" in page.text
