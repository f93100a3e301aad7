"""What changes while training: weights, their average, the optimiser's memory; and one step of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from autounet.losses.level import Targets
from autounet.losses.segmentation import SegmentationLoss
from autounet.training.execution import Execution
from autounet.training.sample import Batch
from planners.plan import Schedule

TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step came to."""

    loss: float
    terms: tuple[tuple[str, float], ...]
    gradient_norm: float

    @property
    def finite(self) -> bool:
        """Whether the weights were changed."""
        return isfinite(self.loss) and isfinite(self.gradient_norm)


@dataclass(slots=True, kw_only=True)
class Learner:
    """A network in training."""

    network: nn.Module
    loss: SegmentationLoss
    execution: Execution
    schedule: Schedule
    optimiser: torch.optim.Optimizer
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights; empty when the plan wants none
    scaler: torch.amp.GradScaler | None = None
    averaged_steps: int = 0
    synchronise: Callable[[nn.Module], None] | None = None  # brings the gradients of several processes together

    def step(self, batch: Batch, rate: float, parts: int = 1) -> StepReport:
        """Forward, backward, clip, update, average. Weights stay as they are when anything is not finite."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        values = [self._backward(image, targets, parts) for image, targets in _parts(batch, parts)]
        measured = self._measured()
        # One question for all numbers: an accelerator that is asked for each has nothing to do in between.
        *losses, norm = torch.stack([*(number for value in values for number in value.values()), measured]).tolist()
        means = {name: sum(losses[index :: len(values[0])]) / parts for index, name in enumerate(values[0])}
        total = means.pop(TOTAL)
        norm = self._update(isfinite(total), norm, measured)
        return StepReport(loss=total, terms=tuple(means.items()), gradient_norm=norm)

    def _backward(self, image: Tensor, targets: Targets, parts: int) -> dict[str, Tensor]:
        with self.execution.autocast():
            logits = self.network(self.execution.image(image))
        value = self.loss(logits, targets.to(self.execution.device))
        loss = value.total / parts
        (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
        return {TOTAL: value.total.detach(), **{term.name: term.value for term in value.terms}}

    def _measured(self) -> Tensor:
        """The length of all gradients, where they are."""
        if self.synchronise is not None:
            self.synchronise(self.network)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        return nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])

    def _update(self, finite: bool, norm: float, measured: Tensor) -> float:
        if not norm <= self.schedule.clip_norm:  # else a pass over all gradients multiplies them by one
            nn.utils.clip_grads_with_norm_([p for p in self.network.parameters() if p.grad is not None], self.schedule.clip_norm, measured)
        if self.scaler is not None:
            before = self.scaler.get_scale()
            self.scaler.step(self.optimiser)
            self.scaler.update()
            if finite and not isfinite(norm) and self.scaler.get_scale() < before:
                return 0.0  # the scale was too high, and is now halved: nothing is wrong with the data
        elif finite and isfinite(norm):
            self.optimiser.step()
        if finite and isfinite(norm):
            self._follow()
        return norm

    @torch.no_grad()
    def _follow(self) -> None:
        """The average follows the weights; young averages forget faster, or they would remember the start."""
        if self.schedule.ema_decay is None:
            return
        self.averaged_steps += 1
        decay = min(self.schedule.ema_decay, (1 + self.averaged_steps) / (10 + self.averaged_steps))
        names = list(self.average)
        weights = self._weights()
        torch._foreach_lerp_([self.average[n] for n in names], [weights[n] for n in names], 1 - decay)

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def final_weights(self) -> dict[str, Tensor]:
        """What prediction shall use: the average where there is one. Contiguous, on the processor."""
        source = self.average or self._weights()
        return {name: value.detach().to("cpu", torch.float32).contiguous().clone() for name, value in source.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint has to hold."""
        named = {f"weight/{n}": w for n, w in self._weights().items()}
        named |= {f"average/{n}": w for n, w in self.average.items()}
        for name, key, value in self._memory():
            named[f"{key}/{name}"] = value
        return {name: value.detach().cpu().contiguous() for name, value in named.items()}

    def _memory(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield name, key, value

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Any]) -> None:
        """Take up what `tensors` returned."""
        for name, parameter in self.network.named_parameters():
            parameter.copy_(tensors[f"weight/{name}"])
            if name in self.average:
                self.average[name].copy_(tensors[f"average/{name}"])
            memory = {}
            for key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step"):
                if f"{key}/{name}" in tensors:
                    saved = tensors[f"{key}/{name}"]
                    memory[key] = saved.clone() if key == "step" else torch.empty_like(parameter).copy_(saved)
            if memory:
                self.optimiser.state[parameter] = memory


def make_learner(network: nn.Module, loss: SegmentationLoss, execution: Execution, schedule: Schedule) -> Learner:
    """A learner at its first step."""
    network = execution.placed(network)
    optimiser: torch.optim.Optimizer
    if schedule.optimiser == "sgd":
        optimiser = torch.optim.SGD(
            network.parameters(),
            schedule.learning_rate,
            momentum=schedule.momentum,
            nesterov=schedule.momentum > 0,
            weight_decay=schedule.weight_decay,
        )
    else:
        optimiser = torch.optim.AdamW(
            network.parameters(), schedule.learning_rate, betas=(schedule.momentum, 0.999), weight_decay=schedule.weight_decay
        )
    average = {} if schedule.ema_decay is None else {n: p.detach().clone() for n, p in network.named_parameters()}
    scaler = torch.amp.GradScaler(execution.device.type) if execution.precision == "float16" else None
    return Learner(network=network, loss=loss, execution=execution, schedule=schedule, optimiser=optimiser, average=average, scaler=scaler)


def _parts(batch: Batch, parts: int) -> Iterator[tuple[Tensor, Targets]]:
    """A batch in equal parts, one after another through the network."""
    if parts == 1:
        yield batch.image, batch.targets
        return
    size = batch.image.shape[0] // parts
    for start in range(0, batch.image.shape[0], size):
        here = slice(start, start + size)
        yield batch.image[here], batch.targets.part(here)
