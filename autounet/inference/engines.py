"""Who runs the networks: torch, or OpenVINO when it is asked for, is installed and says the same as torch.

No stopwatch decides: a prediction that is typed again must give the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from autounet import machine
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.forward import Voters, device_of
from autounet.inference.golden import MadeUp, geometry_of, golden_options
from autounet.inference.load import channels_in
from autounet.inference.processor import computed_in
from planners.errors import UserError
from planners.plan import Configuration

if TYPE_CHECKING:
    from autounet.inference.openvino_engine import OpenVino

EngineName = Literal["torch", "openvino", "auto"]
APART = {"float32": 0.001, "bfloat16": 0.05}  # of the spread of the probabilities; trained networks: 0.00001 and 0.001 to 0.004
FIX = "leave out --engine"
FLAT = 0.01  # a spread below this is none: the network says one thing everywhere


@dataclass(frozen=True, slots=True)
class Found:
    """An engine, and what is said of it on the terminal."""

    engine: "OpenVino | None"  # None: torch
    line: str = ""


def find_engine(name: Literal["openvino", "auto"], ensemble: Ensemble, made_up: MadeUp, options: Options) -> Found:
    """The engine of this name, compared with torch on a made-up image; `auto` is torch where there is none or it disagrees."""
    try:
        return _openvino(ensemble, made_up, options)
    except UserError as error:
        if name == "openvino":
            raise
        return Found(None, f"Torch runs the networks: {error.problem}.")


def _openvino(ensemble: Ensemble, made_up: MadeUp, options: Options) -> Found:
    from autounet.inference.openvino_engine import OpenVino

    device = device_of(ensemble.members[ensemble.chosen[0].configuration][0]).type
    if device != "cpu":
        raise UserError(f"OpenVINO runs networks on the processor, and this model is on {device}", f"add --device cpu, or {FIX}")
    options = replace(options, threads=options.threads or machine.cores())
    engine = OpenVino(options.threads or 1)
    try:
        apart, same = _difference(engine, ensemble, made_up, options)
        _compile(ensemble, replace(options, engine=engine))
    except RuntimeError as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"OpenVINO {engine.version} cannot run this model here: {first}", FIX) from error
    precisions = {options.settings(configuration).precision for configuration in _configurations(ensemble)}
    if not apart <= max(APART[computed_in(precision)] for precision in precisions):  # what is no number is no agreement
        share = f"{100 * apart:.0f} % of what its answers vary by"
        raise UserError(f"OpenVINO {engine.version} differs from torch on this machine, by {share}", FIX)
    return Found(engine, f"OpenVINO {engine.version} runs the networks; it agrees with torch on {100 * same:.2f} % of a made-up image.")


def _difference(engine: "OpenVino", ensemble: Ensemble, made_up: MadeUp, options: Options) -> tuple[float, float]:
    """How far the probabilities lie from those of torch in float32, as a share of their spread; and the share of equal labels."""
    wanted = replace(
        golden_options(), probabilities=True, threads=options.threads, max_ram_bytes=options.max_ram_bytes, precision=options.precision
    )
    z, y, x = made_up.image_czyx.shape[1:]
    geometry = geometry_of(ensemble.plan, (z, y, x), made_up.spacing_zyx_mm)
    plain = predict_case(ensemble, made_up.image_czyx, geometry, replace(wanted, precision="float32"))
    try:
        other = predict_case(ensemble, made_up.image_czyx, geometry, replace(wanted, engine=engine))
    except UserError as error:
        raise UserError(f"OpenVINO {engine.version} fails on a made-up image: {error.problem}", FIX) from error
    assert plain.probabilities_kzyx is not None
    assert other.probabilities_kzyx is not None
    spread = max(FLAT, float(plain.probabilities_kzyx.std()))
    apart = float(np.sqrt(np.square(other.probabilities_kzyx - plain.probabilities_kzyx).mean())) / spread
    return apart, float((plain.label_zyx == other.label_zyx).mean())


def _compile(ensemble: Ensemble, options: Options) -> None:
    """All that will vote, so that the memory of their weights is seen before a case is begun."""
    from autounet.inference.openvino_engine import Twin

    for configuration in _configurations(ensemble):
        members = ensemble.members[configuration.name]
        members = members[: options.folds] if options.folds else members
        voters = Voters(members, options.settings(configuration), 1, ensemble.plan.labels.heads)
        shape = (channels_in(ensemble.plan, configuration), *configuration.patch_zyx[-configuration.dimensions :])
        for network in voters.networks:
            if isinstance(network, Twin):
                network.compiled(shape)


def _configurations(ensemble: Ensemble) -> Iterator[Configuration]:
    """Those that vote, and the first stages of cascades."""
    for chosen in ensemble.chosen:
        name: str | None = chosen.configuration
        while name is not None:
            yield ensemble.plan.configuration(name)
            name = ensemble.plan.configuration(name).previous
