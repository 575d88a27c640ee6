"""Write the outputs of all labs into docs/labs.md and docs/labs.zh-CN.md, and their figures into docs/figures.

Each lab runs once, in its normal form; both languages are told from that one result. What stands between the marks is
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
SECTION = re.compile(r"^## `([\w-]+)` · ([CS]\d\d).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r"^!\[(.*)\]\(figures/", re.MULTILINE)
ENDING: dict[Lang, str] = {"en": "", "zh": ".zh-CN"}


def headline(result: Result, lang: Lang) -> str:
    """Return the figure's first line of text, which says what it shows."""
    return result.findings.draw(lang).texts[0].get_text()


def section(result: Result, lang: Lang, described: str) -> str:
    """Return a lab's section: heading, figure, and what the command prints."""
    lab, figure = result.lab, f"figures/{result.name}{ENDING[lang]}.svg"
    printed = labs.describe(replace(result, figure=Path("labs") / f"{result.name}.svg"), lang)
    command = f"$ layerwise lab {result.name}" + (" --lang zh" if lang == "zh" else "")
    mark = {"en": ": ", "zh": "："}[lang]
    return (
        f"## `{lab.name}` · "
        f"{lab.claim_id}{mark}{lab.title.of(lang)}\n\n![{described}]({figure})\n\n```\n{command}\n{printed}\n```\n\n"
    )


def renewed(page: str, results: list[Result], lang: Lang) -> str:
    """Return a page with the sections of these results renewed or added, all sections in the order of their claims.

    Raises `ValueError` for a page without the marks.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one line '{BEGIN}' and, below the labs, one line '{END}'")
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    sections = {match[1]: (match[2], match[0]) for match in SECTION.finditer(old)}
    for result in results:
        kept = IMAGE.search(sections[result.name][1]) if result.name in sections else None
        described = kept[1] if kept else headline(result, lang)
        sections[result.name] = (result.claim, section(result, lang, described))
    ordered = (text for _, text in sorted(sections.values()))
    return f"{before}{BEGIN}\n\n{''.join(ordered)}{END}{after}"


def main(names: list[str], docs: Path = DOCS) -> None:
    """Run the labs of these names, or all, and write pages and figures after each one."""
    for name in names or labs.names():
        result = labs.run(labs.find(name))
        for lang, ending in ENDING.items():
            save_svg(result.findings.draw, lang, path=docs / "figures" / f"{name}{ending}.svg")
            path = docs / f"labs{ending}.md"
            path.write_text(renewed(path.read_text(encoding="utf-8"), [result], lang), encoding="utf-8", newline="\n")
        print(f"{name}: {'held' if result.held else 'did not hold'}, {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
