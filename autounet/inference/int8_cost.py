"""8 bits: what every network is shown, from cases it was trained on, and what 8 bits cost on cases it had not seen.

Measured where OpenVINO is installed and the networks lie on a processor; elsewhere the model is made without.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec

from torch import nn

from autounet import machine, stop
from autounet.data.voxels import read_case
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.held_out import fold_members
from autounet.inference.int8 import spans_of, watched
from autounet.inference.load import device_named
from autounet.inference.openvino_engine import OpenVino
from autounet.inference.openvino_graph import Span
from autounet.inference.presets import LEAST_VOXELS, SHARE, Bench, Way, scored, spread
from autounet.inference.settings import Member
from autounet.job import Job
from autounet.metrics.scores import nan_mean
from autounet.networks.unet import UNet
from autounet.store.selection import Int8, MemberRanges
from autounet.store.strict import read_value, write_value
from planners.errors import UserError

LOOKED_AT = 3  # cases, by each network
LOOK = Way(1.0, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured for these networks: whoever types the command again gets the same model."""

    made_of: str
    int8: Int8


def measure_int8(bench: Bench, job: Job) -> Int8 | None:
    """Ranges of all networks and their cost; None where there is no OpenVINO, or where that would take too long."""
    path = job.work / "scores" / "int8.json"
    try:
        known = read_value(path, Measured) if path.exists() else None
    except UserError:
        known = None  # of another version
    if known is not None and known.made_of == bench.made_of:
        return known.int8
    if find_spec("openvino") is None or device_named(job.device).type != "cpu" or not _affordable(bench):
        return None
    try:
        found = _measured(bench, job)
    except (UserError, RuntimeError) as error:  # no model is lost because it cannot be had in 8 bits, too
        job.progress.note(f"Without 8 bits: {str(error).splitlines()[0]}")
        return None
    if found is not None:
        write_value(path, Measured(made_of=bench.made_of, int8=found))
    return found


def _affordable(bench: Bench) -> bool:
    """Within the share of the training that presets may take, too."""
    case = next(iter(bench.fold_of), None)
    if case is None:
        return False
    looked = LOOKED_AT * bench.voxels(case, LOOK, len(bench.members[0].folds))
    tried = 2 * sum(bench.voxels(one, _own(bench)) for one in spread(bench.fold_of))
    return looked + tried <= max(LEAST_VOXELS["cpu"], SHARE * bench.trained_voxels)


def _own(bench: Bench) -> Way:
    return Way(min(bench.plan.configuration(name).inference.step_fraction for name in bench.names), False)


def _measured(bench: Bench, job: Job) -> Int8 | None:
    cases, folds = spread(bench.fold_of), bench.members[0].folds
    ranges, scores = list[MemberRanges](), list[tuple[float, float]]()
    with job.progress.task("measure 8 bits", total=len(folds), unit="fold") as task:
        for fold in folds:
            stop.check()
            ensemble = _ensemble(bench, fold, job)
            own = _looked(bench, ensemble, fold, job)
            if own is None:
                return None
            ranges += own
            scores += _scores(bench, ensemble, own, [case for case in cases if bench.fold_of[case] == fold], job)
            task.step(n=1)
    plain, eight = (nan_mean([pair[i] for pair in scores]) if scores else float("nan") for i in (0, 1))
    return Int8(members=tuple(ranges), dice=_number(eight), dice_before=_number(plain), cases=len(scores))


def _ensemble(bench: Bench, fold: int, job: Job) -> Ensemble:
    return Ensemble(bench.plan, fold_members(bench.plan, bench.names, (fold,), job), [replace(m, folds=(fold,)) for m in bench.members])


def _looked(bench: Bench, ensemble: Ensemble, fold: int, job: Job) -> list[MemberRanges] | None:
    """What the networks of a fold are shown in cases of its training; None where there is none, or a network is not ours."""
    options = replace(_options(job), mirror=False, step_fraction=LOOK.step_fraction, precision="float32")
    with ExitStack() as stack:
        watches = {}
        for name, members in ensemble.members.items():
            if not isinstance(members[0].network, UNet):
                return None
            watches[name] = stack.enter_context(watched(members[0].network))
        watching = {name: [Member(watch, ensemble.members[name][0].configuration)] for name, watch in watches.items()}
        for case_id in list(_trained_on(bench, fold))[:LOOKED_AT]:
            voxels = read_case(bench.dataset, bench.dataset.case(case_id), with_label=False)
            predict_case(Ensemble(bench.plan, watching, ensemble.chosen), voxels.image_czyx, voxels.geometry, options)
    found = [MemberRanges(configuration=name, fold=fold, layers=watch.ranges) for name, watch in watches.items()]
    return found if all(one.layers for one in found) else None


def _trained_on(bench: Bench, fold: int) -> Iterator[str]:
    return (case.id for case in bench.dataset.cases if case.split == "train" and case.label and bench.fold_of.get(case.id) != fold)


def _scores(bench: Bench, ensemble: Ensemble, ranges: Sequence[MemberRanges], cases: Sequence[str], job: Job) -> list[tuple[float, float]]:
    """Dice as the plan wants it, and in 8 bits."""
    if not cases:
        return []
    way = _own(bench)
    plain = replace(_options(job), mirror=False, step_fraction=way.step_fraction)
    eight = replace(plain, engine=OpenVino(plain.threads or 1, _spans(ensemble.members, ranges)))
    return [(scored(bench, ensemble, case, plain)[0], scored(bench, ensemble, case, eight)[0]) for case in cases]


def _spans(members: Mapping[str, Sequence[Member]], ranges: Sequence[MemberRanges]) -> dict[nn.Module, Span]:
    found: dict[nn.Module, Span] = {}
    for one in ranges:
        network = members[one.configuration][0].network
        assert isinstance(network, UNet), "others are not looked at"
        found |= spans_of(network, one.layers)
    return found


def _options(job: Job) -> Options:
    return Options(threads=job.threads or machine.cores(), max_ram_bytes=job.max_ram_bytes)


def _number(value: float) -> float | None:
    return None if value != value else value
