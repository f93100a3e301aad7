"""Networks with their weights, checked name by name before anything is allocated."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from autounet.inference.settings import Member
from autounet.machine import hardware
from autounet.networks import build
from planners.errors import UserError
from planners.plan import Configuration, Plan

if TYPE_CHECKING:
    from autounet.store.bundle import Bundle


def load_members(bundle: "Bundle", name: str, folds: Sequence[int], device: str) -> tuple[Member, ...]:
    """The members of one configuration, on the device."""
    configuration = bundle.plan.configuration(name)
    where = device_named(device)
    return tuple(member_of(bundle.plan, configuration, bundle.tensors(name, fold), where) for fold in folds)


def member_of(plan: Plan, configuration: Configuration, tensors: Mapping[str, torch.Tensor], device: torch.device) -> Member:
    """A network in eval mode that holds exactly these tensors."""
    with torch.device("meta"):  # shapes only: a plan that lies about its weights costs no memory
        network = build(configuration.architecture, channels_in(plan, configuration), plan.labels.heads)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        odd = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))[0]
        raise UserError(
            f"the weights of {configuration.name} do not fit its network: {odd} is {found.get(odd)}, not {expected.get(odd)}",
            "get the model again from where it came",
        )
    network.load_state_dict({key: value.to(device, torch.float32) for key, value in tensors.items()}, assign=True)
    network.requires_grad_(False)
    return Member(network.eval(), configuration)


def channels_in(plan: Plan, configuration: Configuration) -> int:
    """Image channels, and one a foreground class for the second stage of a cascade."""
    return len(plan.channels) + (len(plan.labels.foreground) if configuration.previous is not None else 0)


def device_named(device: str) -> torch.device:
    """`auto` is the accelerator if there is one."""
    if device != "auto":
        hardware(device)  # one that is not there is said before anything is read
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
