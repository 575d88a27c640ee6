"""Write the outputs of all labs into docs/labs.md and docs/labs.zh-CN.md, and their figures into docs/figures.

Each lab runs once, in its normal form; both languages describe that one result. The text between the marks is
replaced, the rest of a page is written by hand. A lab's description for those who do not see the figure is kept if the
page has one; a new lab gets the figure's headline. With names, only these labs are run, and the other sections stay as
they are.

    python tools/labs_page.py [NAME…]
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from layerwise import labs
from layerwise.labs.base import Lang, Result
from layerwise.labs.figures import save_svg

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- labs: written by tools/labs_page.py -->", "<!-- labs: end -->"
SECTION = re.compile(r"^## `([\w-]+)` · (C\d\d|–).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r"^!\[(.*)\]\(figures/", re.MULTILINE)
ENDING: dict[Lang, str] = {"en": "", "zh": ".zh-CN"}


def get_headline(result: Result, lang: Lang) -> str:
    """Return the figure's first line of text, which says what it shows."""
    return result.findings.draw(lang).texts[0].get_text()


def format_section(result: Result, lang: Lang, description: str) -> str:
    """Return a lab's section: heading, figure, and what the command prints."""
    lab, figure = result.lab, f"figures/{result.name}{ENDING[lang]}.svg"
    printed = labs.describe(replace(result, figure=Path("labs") / f"{result.name}.svg"), lang)
    command = f"$ layerwise lab {result.name}" + (" --lang zh" if lang == "zh" else "")
    mark = {"en": ": ", "zh": "："}[lang]
    return (
        f"## `{lab.name}` · "
        f"{lab.claim_id}{mark}{lab.title.of(lang)}\n\n![{description}]({figure})\n\n```\n{command}\n{printed}\n```\n\n"
    )


def update_page(page: str, results: list[Result], lang: Lang) -> str:
    """Return a page with the sections of these results replaced or added, all sections in the order of their claims.

    Raises `ValueError` for a page without the marks.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one line '{BEGIN}' and, below the labs, one line '{END}'")
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    sections = {heading[1]: (heading[2], heading[0]) for heading in SECTION.finditer(old)}
    for result in results:
        match = IMAGE.search(sections[result.name][1]) if result.name in sections else None
        description = match[1] if match else get_headline(result, lang)
        sections[result.name] = (result.claim_id, format_section(result, lang, description))
    ordered = (text for _, text in sorted(sections.values()))
    return f"{before}{BEGIN}\n\n{''.join(ordered)}{END}{after}"


def main(names: list[str], docs: Path = DOCS) -> None:
    """Run the labs of these names, or all, and write pages and figures after each one."""
    for name in names or labs.list_labs():
        result = labs.run(labs.find(name))
        for lang, ending in ENDING.items():
            save_svg(result.findings.draw, lang, path=docs / "figures" / f"{name}{ending}.svg")
            path = docs / f"labs{ending}.md"
            path.write_text(
                update_page(path.read_text(encoding="utf-8"), [result], lang), encoding="utf-8", newline="\n"
            )
        print(f"{name}: {'held' if result.held else 'did not hold'}, {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
