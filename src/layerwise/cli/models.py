"""``layerwise models``."""

from __future__ import annotations

from layerwise import registry
from layerwise.cli.common import Imports, Json, LangOption, language, put_json, put_table, take_imports


def models_(*, family: str = "", json: Json = False, lang: LangOption = None, imports: Imports = None) -> int:
    """List every network of the catalog.

    Parameters
    ----------
    family
        only the networks of this family
    """
    take_imports(imports)
    specs = registry.list_models(family=family)
    if json:
        keys = ("name", "family", "year", "tasks", "rule", "parameters", "paper", "summary", "summary_zh")
        put_json(models=[{key: getattr(spec, key) for key in keys} for spec in specs])
        return 0
    chinese = language(lang) == "zh"
    columns = (
        ("名称", "年份", "家族", "规则", "参数", "简介")
        if chinese
        else ("name", "year", "family", "rule", "parameters", "what")
    )
    put_table(
        columns,
        [
            (c.name, c.year, c.family, c.rule or "–", f"{c.parameters:,}", c.summary_zh if chinese else c.summary)
            for c in specs
        ],
    )
    return 0
