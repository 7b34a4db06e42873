"""Sphinx builds the pages of this folder: `make docs`."""

import re
from typing import Any

import convext

project = "convext"
version = release = convext.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"convext {release}"
html_show_copyright = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
suppress_warnings = ["myst.xref_missing"]  # links to files outside this folder, which a clone has


def as_rst(app: Any, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are written to be read as they stand: `code`, stars, and drawings that are only indented.

    A drawing is an indented paragraph behind an empty line; what stands right below `Args:` is none.
    """
    written: list[str] = []
    drawing = False
    for line in lines:
        behind_a_gap = not written or not written[-1]
        indented = line.startswith("    ")
        if indented and behind_a_gap and not drawing:
            drawing = True
            written += ["::", ""]
        elif line and not indented:
            drawing = False
        written.append(line if drawing else _in_rst(line))
    lines[:] = written


def _in_rst(line: str) -> str:
    def part(text: str) -> str:
        return f"`{text}`" if text.startswith("`") else re.sub(r"([*|])", r"\\\1", text)

    return re.sub(r"``(?=\w)(?<=\w``)", r"``\\ ", "".join(map(part, re.split(r"(`[^`]*`)", line))))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon reads its sections
