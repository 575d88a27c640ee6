"""``layerwise export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerwise.cli.common import Imports, Json, import_user_modules, print_json, print_table
from layerwise.errors import UsageError
from layerwise.text_display import write_line


def run_export(
    run: Path,
    file: Path,
    *,
    fold: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    imports: Imports = None,
    as_json: Json = False,
) -> int:
    """Write a run's best weights as a file for other programs, checked against the network.

    Parameters
    ----------
    run
        a run directory
    file
        the file to write, in the format of its ending: .onnx, .pt2, .safetensors, and for word vectors .vec, .bin
        (word2vec) or .txt (GloVe); FILE.json beside it holds the check's figures
    fold
        fold batch norms into the layers before them (.onnx and .pt2)
    overwrite
        replace a file that is there
    """
    import_user_modules(imports)
    check_is_run(run)
    from layerwise.inference.export.files import export
    from layerwise.inference.predict import load_run

    exported = export(load_run(run).export_source, file, fold=fold, overwrite=overwrite)
    facts = exported.facts
    if as_json:
        print_json(
            run=str(run),
            file=str(exported.path),
            beside=str(exported.metadata_path),
            bytes=exported.size,
            input=facts["input"],
            outputs=facts["outputs"],
            batch_norms_folded=facts["batch_norms_folded"],
            check=facts["check"],
        )
        return 0
    rows = [[one["batch"], f"{one['absolute']:.2e}", f"{one['relative']:.2e}"] for one in facts["check"]["differences"]]
    print_table(("batch", "largest difference", "of the largest output"), rows)
    write_line(f"checked by\t{facts['check']['by']}")
    if fold:
        write_line(f"batch norms folded\t{facts['batch_norms_folded']}")
    write_line(f"file\t{exported.path}\t{exported.size} bytes\nbeside it\t{exported.metadata_path}")
    return 0


def check_is_run(run: Path) -> None:
    """Raise `UsageError` for a model's name in place of a run."""
    from layerwise import registry

    if run.exists() or str(run) not in registry.load_specs():
        return
    spec = registry.find(str(run))
    if spec.rule is None:
        raise UsageError(
            f"{spec.title} has no weights to export: {spec.why}",
            do=f"layerwise inspect {spec.name} shows what it does",
        )
    raise UsageError(
        f"{spec.name} is the name of a model, not a run",
        expected="a run directory",
        do=f"layerwise train {spec.name} --data …, then export the run",
    )
