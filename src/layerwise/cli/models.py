"""``layerwise models``."""

from __future__ import annotations

from layerwise import registry
from layerwise.cli.common import (
    Imports,
    Json,
    LangOption,
    import_user_modules,
    print_json,
    print_table,
    resolve_language,
)


def run_models(*, family: str = "", as_json: Json = False, lang: LangOption = None, imports: Imports = None) -> int:
    """List every model.

    Parameters
    ----------
    family
        only the networks of this family
    """
    import_user_modules(imports)
    specs = registry.list_models(family=family)
    if as_json:
        keys = ("name", "family", "year", "tasks", "rule", "parameters", "paper", "summary", "summary_zh")
        print_json(models=[{key: getattr(spec, key) for key in keys} for spec in specs])
        return 0
    chinese = resolve_language(lang) == "zh"
    columns = (
        ("名称", "年份", "家族", "规则", "参数", "简介")
        if chinese
        else ("name", "year", "family", "rule", "parameters", "what")
    )
    print_table(
        columns,
        [
            (
                spec.name,
                spec.year or "–",
                spec.family,
                spec.rule or "–",
                "–" if spec.parameters is None else f"{spec.parameters:,}",
                spec.summary_zh if chinese else spec.summary,
            )
            for spec in specs
        ],
    )
    return 0
