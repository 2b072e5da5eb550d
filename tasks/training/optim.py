"""Adam, its learning rate as a function of the step, averaged weights, and the guard against what is not finite."""

import torch
from torch import Tensor, nn

from tasks.base import StepDecay


def learning_rate(step: int, *, base: float, decay: StepDecay, warmup_steps: int) -> float:
    """The rate of the next step after ``step`` steps, a function of the step and the configuration alone."""
    rate = base * decay.decay_factor ** (step // decay.decay_steps)
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps else rate


def adam(parameters: list[nn.Parameter], *, lr: float) -> torch.optim.Adam:
    """Fused Adam: one kernel for all tensors, which can skip an update without waiting for the device."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def update(optimizer: torch.optim.Optimizer, *, skip: Tensor) -> None:
    """One step of a fused optimiser; it changes nothing if ``skip``, a float on its device, is not 0."""
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = skip  # type: ignore[attr-defined]
    optimizer.step()


class NonFiniteGuard:
    """Remembers, on the device, the first step whose loss or gradient was not finite; from then on no weight changes.

    The host reads it only when it logs, so no step waits for a CUDA device.

    Args:
        device: of the loss.
        overflows: so many steps in a row may have a gradient that is not finite. A gradient scaler raises its scale
            until that happens, and skips the step.
    """

    def __init__(self, device: torch.device, *, overflows: int = 0) -> None:
        self.tripped = torch.zeros((), device=device)
        self._overflows = overflows
        self._in_a_row = torch.zeros((), device=device)
        self._record: Tensor | None = None

    def watch(self, step: int, terms: Tensor, norm: Tensor) -> Tensor:
        """Whether to skip the update (0 or 1, float). terms (n,): the step's loss terms; norm: of its gradient."""
        overflow = ~torch.isfinite(norm)
        self._in_a_row = torch.where(overflow, self._in_a_row + 1, 0)
        bad = ~torch.isfinite(terms).all() | (self._in_a_row > self._overflows)
        record = torch.cat([terms.new_full((1,), step), terms, norm.view(1)])
        self._record = record if self._record is None else torch.where(self.tripped > 0, self._record, record)
        self.tripped = torch.maximum(self.tripped, bad.float())
        return torch.maximum(self.tripped, overflow.float())

    def failure(self) -> tuple[int, list[float]] | None:
        """The step that was not finite, its loss terms and the norm of its gradient, or None. Waits for the device."""
        if not self.tripped or self._record is None:
            return None
        step, *values = self._record.tolist()
        return int(step), values


class AveragedWeights:
    """Exponential moving average of what training changes; the rest of the state is the model's own.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), so that initial weights soon lose their influence.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        own = model.state_dict()
        fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self.state = {name: value if name in fixed else value.clone() for name, value in own.items()}
        moving = [name for name in own if name not in fixed]
        averaged = [name for name in moving if own[name].is_floating_point()]
        counted = [name for name in moving if not own[name].is_floating_point()]
        # Training changes the model's tensors in place, so these references stay valid.
        self._averages, self._sources = [self.state[n] for n in averaged], [own[n] for n in averaged]
        self._copies = [(self.state[n], own[n]) for n in counted]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after ``steps`` steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for copy, source in self._copies:
            copy.copy_(source)

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state.items():
            value.copy_(state[name])


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The L2 norm over all gradients, on their device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def clip(parameters: list[nn.Parameter], *, norm: Tensor, largest: float) -> None:
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
