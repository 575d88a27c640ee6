"""``layerwise doctor``."""

from __future__ import annotations

from pathlib import Path

from layerwise.cli.common import Json, LangOption, print_json, print_table, resolve_language
from layerwise.text_display import write_line


def run_doctor(run: Path | None = None, *, lang: LangOption = None, as_json: Json = False) -> int:
    """Show what this machine can do, or check every file of a run. Exit code 1 if a file is damaged.

    Parameters
    ----------
    run
        a run directory whose files are checked
    """
    chinese = resolve_language(lang) == "zh"
    if run is None:
        from layerwise.nn.kernel_choice import describe_timing, get_timing_columns, list_timings, make_timing_row
        from layerwise.runtime import machine
        from layerwise.runtime.machine_report import format_facts

        facts, timings = machine.describe(), list_timings()
        if as_json:
            print_json(machine=facts, convolutions=[describe_timing(threads, timing) for threads, timing in timings])
        else:
            print_table(
                ("项目", "情况") if chinese else ("what", "here"), format_facts(facts, "zh" if chinese else "en")
            )
            if timings:
                write_line()
                print_table(
                    get_timing_columns(chinese=chinese), [make_timing_row(*one, chinese=chinese) for one in timings]
                )
        return 0
    from layerwise.inference.engines.engine_choice import find_run_choices
    from layerwise.inference.engines.exported_graphs import find_graph_problems
    from layerwise.run_check import verify
    from layerwise.run_directory import RunDirectory
    from layerwise.training.trackers import find_event_problems

    directory = RunDirectory.open(run)
    problems = verify(directory)
    for more in (find_graph_problems(run), find_event_problems(run)):
        problems |= {name: problem or problems.get(name, "") for name, problem in more.items()}
    bad = {name: problem for name, problem in problems.items() if problem}
    engines = [] if bad else find_run_choices(directory)
    if as_json:
        print_json(run=str(run), ok=not bad, files=problems, engines=[choice.to_json() for choice in engines])
    else:
        ok, columns = ("完好", ("文件", "状态")) if chinese else ("ok", ("file", "state"))
        print_table(columns, [(name, problem or ok) for name, problem in problems.items()])
        for choice in engines:
            write_line(choice.format_line("zh" if chinese else "en"))
    return 1 if bad else 0
