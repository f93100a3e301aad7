"""Who runs the networks: torch, or OpenVINO when it is asked for, is installed and says the same as torch.

No stopwatch decides: a prediction that is typed again must give the same bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from autounet import machine
from autounet.inference.ensemble import Ensemble, Options, folds_of, predict_case
from autounet.inference.forward import Voters, device_of
from autounet.inference.golden import MadeUp, geometry_of, golden_options
from autounet.inference.load import channels_in
from autounet.inference.processor import computed_in
from autounet.networks.unet import UNet
from autounet.store.selection import Int8
from planners.errors import UserError
from planners.plan import Configuration

if TYPE_CHECKING:
    from torch import nn

    from autounet.inference.openvino_engine import OpenVino
    from autounet.inference.openvino_graph import Span

EngineName = Literal["torch", "openvino", "openvino-int8", "auto"]
APART = {"float32": 0.001, "bfloat16": 0.05}  # of the spread of the probabilities; trained networks: 0.00001 and 0.001 to 0.004
FIX = "leave out --engine"
APART_INT8 = 0.1  # trained networks: 0.006
FLAT = 0.01  # a spread below this is none: the network says one thing everywhere


@dataclass(frozen=True, slots=True)
class Found:
    """An engine, and what is said of it on the terminal."""

    engine: "OpenVino | None"  # None: torch
    line: str = ""


@dataclass(frozen=True, slots=True)
class Around:
    """What an engine is tried with."""

    made_up: MadeUp
    options: Options
    int8: Int8 | None = None


def find_engine(name: Literal["openvino", "openvino-int8", "auto"], ensemble: Ensemble, around: Around) -> Found:
    """The engine of this name, compared with torch on a made-up image; `auto` is torch where there is none or it disagrees."""
    options = replace(around.options, threads=around.options.threads or machine.cores())
    try:
        if name == "openvino-int8":
            spans = _spans(ensemble, around.int8)
            return _tried(ensemble, replace(around, options=options), spans)
        return _tried(ensemble, replace(around, options=options), {})
    except UserError as error:
        if name != "auto":
            raise
        return Found(None, f"Torch runs the networks: {error.problem}.")


def _tried(ensemble: Ensemble, around: Around, spans: "Mapping[nn.Module, Span]") -> Found:
    from autounet.inference.openvino_engine import OpenVino

    device = device_of(ensemble.members[ensemble.chosen[0].configuration][0]).type
    if device != "cpu":
        raise UserError(f"OpenVINO runs networks on the processor, and this model is on {device}", f"add --device cpu, or {FIX}")
    engine, options = OpenVino(around.options.threads or 1, spans), around.options
    try:
        apart, same = _difference(engine, ensemble, around)
        _compile(ensemble, replace(options, engine=engine))
    except RuntimeError as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"OpenVINO {engine.version} cannot run this model here: {first}", FIX) from error
    precisions = {options.settings(configuration).precision for configuration in _configurations(ensemble)}
    if not apart <= (APART_INT8 if spans else max(APART[computed_in(one)] for one in precisions)):  # no number is no agreement
        share = f"{100 * apart:.0f} % of what its answers vary by"
        raise UserError(f"OpenVINO {engine.version} differs from torch on this machine, by {share}", FIX)
    line = f"OpenVINO {engine.version} runs the networks; it agrees with torch on {100 * same:.2f} % of a made-up image"
    return Found(engine, f"{line}; {around.int8.words}." if spans and around.int8 else f"{line}.")


def _spans(ensemble: Ensemble, int8: Int8 | None) -> "dict[nn.Module, Span]":
    """Of all layers of all networks."""
    from autounet.inference.int8 import spans_of

    known = {(one.configuration, one.fold): one.layers for one in int8.members} if int8 else {}
    found: dict[nn.Module, Span] = {}
    for name, folds in folds_of(ensemble.plan, ensemble.chosen).items():
        for member, fold in zip(ensemble.members[name], folds, strict=True):
            if (name, fold) not in known or not isinstance(member.network, UNet):
                raise UserError(
                    "the model does not know what its networks see, so they cannot run in 8 bits",
                    "type the run again on a processor where openvino is installed, or use --engine openvino",
                )
            found |= spans_of(member.network, known[name, fold])
    return found


def _difference(engine: "OpenVino", ensemble: Ensemble, around: Around) -> tuple[float, float]:
    """How far the probabilities lie from those of torch in float32, as a share of their spread; and the share of equal labels."""
    given, made_up = around.options, _one_tile(around.made_up)
    wanted = replace(
        golden_options(), probabilities=True, threads=given.threads, max_ram_bytes=given.max_ram_bytes, precision=given.precision
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


def _one_tile(made_up: MadeUp) -> MadeUp:
    """A made-up image is a quarter larger than a patch, for tiles to overlap; one is enough to see whether two engines agree."""
    edges = (max(1, edge * 4 // 5) for edge in made_up.image_czyx.shape[1:])
    return replace(made_up, image_czyx=made_up.image_czyx[(slice(None), *map(slice, edges))])


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
