"""From a fingerprint and a budget to plan.json, with reasons; on an accelerator confirmed by a real step when asked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from autounet.job import Job
from autounet.store.files import publish_json
from autounet.store.strict import read_value, write_value
from planners import Planner, planner
from planners.configurations import OFFSET_BYTES
from planners.errors import UserError
from planners.explain import one_screen
from planners.fingerprint import Fingerprint
from planners.hardware import Budget, Hardware
from planners.plan import Configuration, Plan
from planners.strict_json import to_plain

PLAN, DEVICES = "plan.json", "devices.json"
ATTEMPTS = 4
STEP_BACK = 0.15  # of the predicted bytes are added to the offset when a step did not fit
ENOUGH = 0.05  # a prediction this close is not corrected again

Probe = Callable[[Plan, Configuration], int | None]  # bytes that real steps held; None: they did not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a probe found out about one device."""

    name: str
    offset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """All that were probed in this work folder."""

    devices: tuple[Device, ...] = ()

    def offset(self, name: str) -> int:
        """Zero for one that was never probed."""
        return next((one.offset_bytes for one in self.devices if one.name == name), 0)

    def knowing(self, name: str, offset_bytes: int) -> "Devices":
        """The same with another device, or a newer measure of it."""
        others = tuple(one for one in self.devices if one.name != name)
        return Devices(devices=(*others, Device(name=name, offset_bytes=offset_bytes)))


def plan(fingerprint: Fingerprint, hardware: Hardware, budget: Budget, planner_name: str, job: Job, probe: Probe | None = None) -> Plan:
    """Decide everything, write it down, and say it on one screen. With a probe, real steps correct the prediction."""
    decide = planner(planner_name)
    job.work.mkdir(parents=True, exist_ok=True)
    known = read_devices(job.work)
    if job.max_ram_bytes is not None:
        hardware = replace(hardware, host_bytes=min(hardware.host_bytes, job.max_ram_bytes))
    if not hardware.offset_bytes and hardware.accelerator != "cpu":
        hardware = replace(hardware, offset_bytes=known.offset(hardware.name))
    if probe is None:
        decided = decide(fingerprint, hardware, budget)
    else:
        decided, hardware = probed(decide, fingerprint, hardware, budget, probe)
        write_value(job.work / DEVICES, known.knowing(hardware.name, hardware.offset_bytes))
    publish_json(job.work / PLAN, to_plain(decided))
    job.progress.event("planned", planner=decided.planner, train=list(decided.train))
    job.progress.detail(one_screen(decided, fingerprint))
    return decided


def read_plan(path: Path) -> Plan:
    """A plan that may have been edited by hand: the same checks as when it is made."""
    return read_value(path, Plan)


def read_devices(work: Path) -> Devices:
    """What earlier probes found."""
    path = work / DEVICES
    return read_value(path, Devices) if path.exists() else Devices()


def probed(decide: Planner, fingerprint: Fingerprint, hardware: Hardware, budget: Budget, probe: Probe) -> tuple[Plan, Hardware]:
    """Plan, try, correct the device's offset, and plan again until prediction and device agree."""
    for _ in range(ATTEMPTS):
        decided = decide(fingerprint, hardware, budget)
        largest = max((decided.configuration(name) for name in decided.train), key=lambda one: one.memory.training_bytes)
        predicted = largest.memory.training_bytes
        held = probe(decided, largest)
        if held is None:
            hardware = replace(hardware, offset_bytes=(hardware.offset_bytes or OFFSET_BYTES) + int(STEP_BACK * predicted))
            continue
        lowest = hardware.offset_bytes == 1  # a device that holds less even so cannot be predicted closer
        offset = max(1, (hardware.offset_bytes or OFFSET_BYTES) + held - predicted)
        close = held - predicted <= ENOUGH * predicted and (lowest or predicted - held <= ENOUGH * predicted)
        hardware = replace(hardware, offset_bytes=offset)
        if close:
            return decide(fingerprint, hardware, budget), hardware
    raise UserError(
        f"{ATTEMPTS} plans did not train on {hardware.name} within what was predicted for them",
        "see what else uses the device, or plan for less with --gpu-memory",
    )
