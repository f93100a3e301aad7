"""Beginning with the weights of another model: what fits is taken, channels and classes are matched, the rest is fresh."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from autounet.training.recipe import Recipe
from planners.errors import UserError
from planners.plan import Plan


@dataclass(frozen=True, slots=True)
class Fitted:
    """Weights to begin with, and for every tensor where it came from."""

    weights: dict[str, Tensor]
    table: tuple[tuple[str, str], ...]  # (name, copied | channels | classes | fresh and why)

    def lines(self) -> tuple[str, ...]:
        """How many tensors went which way, and by name what did not fit."""
        ways = [way for _, way in self.table]
        counts = {way: ways.count(way) for way in dict.fromkeys(ways)}
        said = tuple(f"{count} tensors {way}" for way, count in counts.items())
        return said + tuple(f"{name}: {way}" for name, way in self.table if way.startswith("fresh"))


def weights_of(model: Path, recipe: Recipe, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Weights of a model file in the shapes of this training; what was taken is said."""
    from autounet.networks import build
    from autounet.store.bundle import open_bundle

    bundle, configuration = open_bundle(model), recipe.configuration
    name, fold = next((w for w in bundle.weights if w[0] == configuration.name), bundle.weights[0])
    fresh = build(configuration.architecture, recipe.channels_in, recipe.plan.labels.heads).state_dict()
    found = fitted(fresh, bundle.tensors(name, fold), recipe.plan, bundle.plan)
    for line in found.lines():
        say(f"{model.name}, fold {fold} of {name}: {line}")
    return found.weights


def fitted(fresh: Mapping[str, Tensor], source: Mapping[str, Tensor], plan: Plan, source_plan: Plan) -> Fitted:
    """The weights of `source` in the shapes of `fresh`."""
    weights, table = {}, []
    for name, own in fresh.items():
        value, way = own, "fresh: the source has none of this name"
        if name in source:
            value, way = _taken(name, own, source[name].to(own.dtype), plan, source_plan)
        weights[name] = value.clone()
        table.append((name, way))
    if not any(not way.startswith("fresh") for _, way in table):
        raise UserError("no tensor of the source fits this network", "train with a plan of the same architecture as the source model")
    return Fitted(weights, tuple(table))


def _taken(name: str, own: Tensor, other: Tensor, plan: Plan, source_plan: Plan) -> tuple[Tensor, str]:
    if name.startswith("decoder.heads."):
        return _classes(own, other, _head_names(plan), _head_names(source_plan))
    if own.shape == other.shape and not (_first(name) and _channel_names(plan) != _channel_names(source_plan)):
        return other, "copied"
    if _first(name) and own.shape[0] == other.shape[0] and own.shape[2:] == other.shape[2:]:
        return _channels(own, other, _channel_names(plan), _channel_names(source_plan)), "channels matched"
    return own, f"fresh: {tuple(other.shape)} does not fit {tuple(own.shape)}"


def _first(name: str) -> bool:
    return name in ("encoder.stages.0.0.conv.weight", "encoder.stem.conv.weight")


def _channels(own: Tensor, other: Tensor, names: Sequence[str], source_names: Sequence[str]) -> Tensor:
    """A channel of the same name keeps its filters; a new one gets the mean of all, as an untrained guess at an image."""
    result = own.clone()
    mean = other.mean(1)
    for index in range(own.shape[1]):
        known = index < len(names) and names[index] in source_names
        result[:, index] = other[:, source_names.index(names[index])] if known else mean
    return result


def _classes(own: Tensor, other: Tensor, names: Sequence[str], source_names: Sequence[str]) -> tuple[Tensor, str]:
    if own.shape[1:] != other.shape[1:]:
        return own, f"fresh: {tuple(other.shape)} does not fit {tuple(own.shape)}"
    result = own.clone()
    for index, name in enumerate(names):
        if name in source_names:
            result[index] = other[source_names.index(name)]
    return result, "classes matched"


def _head_names(plan: Plan) -> list[str]:
    return [r.name for r in plan.labels.regions] or [c.name for c in plan.labels.classes]


def _channel_names(plan: Plan) -> list[str]:
    return [c.name for c in plan.channels]
