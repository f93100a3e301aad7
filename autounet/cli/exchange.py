"""Verbs that take models in from elsewhere and give them out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from autounet.cli.flags import DEFAULTS, Common
from autounet.cli.paths import existing
from autounet.cli.session import Result, session


def import_nnunet(
    source: Annotated[Path, Parameter(help="A trained model of nnU-Net v2: its folder, or a zip of it.")],
    out: Annotated[Path, Parameter(help="The model file to write, or a folder for it.")],
    /,
    *,
    configuration: Annotated[str | None, Parameter(metavar="NAME", help="Only this one, say 3d_fullres.")] = None,
    common: Common = DEFAULTS,
) -> Result:
    """Turn a trained nnU-Net v2 model into one model file that predicts the same."""
    existing(source, "model")
    if common.dry_run:
        return Result(lines=(f"Would turn {source} into {out}.",))
    from autounet.stages import exchange as stage

    with session(common, common.work or out.parent, only_looks=True) as job:
        path = stage.take_in(source, out, job, configuration=configuration)
    return Result(lines=(f"Model: {path}",), plain={"model": str(path)})


def export_nnunet(
    model: Annotated[Path, Parameter(help="A trained model: a file that ends in .aunet.")],
    out: Annotated[Path, Parameter(help="Folder to write into.")],
    /,
    *,
    common: Common = DEFAULTS,
) -> Result:
    """Write a model as folders that nnU-Net v2 predicts with."""
    existing(model, "model")
    if common.dry_run:
        return Result(lines=(f"Would write {model} as folders of nnU-Net into {out}.",))
    from autounet.stages import exchange as stage

    with session(common, common.work or out, only_looks=True) as job:
        folders = stage.give_out(model, out, job)
    return Result(lines=tuple(f"Folder: {f}" for f in folders), plain={"folders": [str(f) for f in folders]})
