"""``layerwise doctor``."""

from __future__ import annotations

from pathlib import Path

from layerwise.cli.common import Json, LangOption, language, put_json, put_table
from layerwise.text_display import write_line


def doctor_(run: Path | None = None, *, lang: LangOption = None, json: Json = False) -> int:
    """Show what this machine can do, or check every file of a run. Exit code 1 if a file is damaged.

    Parameters
    ----------
    run
        a run directory whose files are checked
    """
    chinese = language(lang) == "zh"
    if run is None:
        from layerwise.nn.kernel_choice import list_timings
        from layerwise.nn.kernel_table import describe_timing, timing_columns, timing_row
        from layerwise.runtime import machine
        from layerwise.runtime.machine_report import told

        facts, timings = machine.describe(), list_timings()
        if json:
            put_json(machine=facts, convolutions=[describe_timing(threads, timing) for threads, timing in timings])
        else:
            put_table(("项目", "情况") if chinese else ("what", "here"), told(facts, "zh" if chinese else "en"))
            if timings:
                write_line()
                put_table(timing_columns(chinese=chinese), [timing_row(*one, chinese=chinese) for one in timings])
        return 0
    from layerwise.inference.engines.engine_report import engines_of
    from layerwise.inference.engines.graphs import graph_problems
    from layerwise.run_check import verify
    from layerwise.run_directory import RunDirectory
    from layerwise.training.trackers import event_problems

    directory = RunDirectory.open(run)
    found = verify(directory)
    for more in (graph_problems(run), event_problems(run)):
        found |= {name: problem or found.get(name, "") for name, problem in more.items()}
    bad = {name: problem for name, problem in found.items() if problem}
    engines = [] if bad else engines_of(directory)
    if json:
        put_json(run=str(run), whole=not bad, files=found, engines=[choice.to_json() for choice in engines])
    else:
        whole, columns = ("完好", ("文件", "状态")) if chinese else ("whole", ("file", "state"))
        put_table(columns, [(name, problem or whole) for name, problem in found.items()])
        for choice in engines:
            write_line(choice.line("zh" if chinese else "en"))
    return 1 if bad else 0
