"""``layerwise export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerwise.cli.common import Imports, Json, put_json, put_table, take_imports
from layerwise.errors import UsageError
from layerwise.text_display import write_line


def export_(
    run: Path,
    file: Path,
    *,
    fold: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    imports: Imports = None,
    json: Json = False,
) -> int:
    """Write a run's best weights as a file for other programs, checked against the network.

    Parameters
    ----------
    run
        a run directory
    file
        where to: the ending says what: .onnx, .pt2, .safetensors, and for word vectors .vec, .bin (word2vec) or .txt
        (GloVe); FILE.json beside it holds the check's figures
    fold
        fold batch norms into the layers before them (.onnx and .pt2)
    overwrite
        replace a file that is there
    """
    take_imports(imports)
    refuse_model(run)
    from layerwise.inference.export.files import export
    from layerwise.inference.predict import load

    made = export(load(run).subject, file, fold=fold, overwrite=overwrite)
    facts = made.facts
    if json:
        put_json(
            run=str(run),
            file=str(made.path),
            beside=str(made.beside),
            bytes=made.size,
            input=facts["input"],
            outputs=facts["outputs"],
            batch_norms_folded=facts["batch_norms_folded"],
            check=facts["check"],
        )
        return 0
    rows = [[one["batch"], f"{one['absolute']:.2e}", f"{one['relative']:.2e}"] for one in facts["check"]["differences"]]
    put_table(("batch", "largest difference", "of the largest output"), rows)
    write_line(f"checked by\t{facts['check']['by']}")
    if fold:
        write_line(f"batch norms folded\t{facts['batch_norms_folded']}")
    write_line(f"file\t{made.path}\t{made.size} bytes\nbeside it\t{made.beside}")
    return 0


def refuse_model(run: Path) -> None:
    """Say of a model's name that a run is exported, and of a model that learns nothing why there is no run of it."""
    from layerwise import registry

    if run.exists() or str(run) not in registry.specs():
        return
    spec = registry.find(str(run))
    if spec.rule is None:
        raise UsageError(
            f"{spec.name} ({spec.year}) has no weights to export: {spec.why}",
            do=f"layerwise inspect {spec.name} shows what it does",
        )
    raise UsageError(
        f"{spec.name} is a model of the catalog, and a trained network is exported",
        expected="a run directory",
        do=f"layerwise train {spec.name} --data …, then export the run",
    )
