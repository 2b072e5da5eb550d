"""Adam, its learning rate as a function of the step, averaged weights, and the guard against what is not finite."""

import torch
from torch import Tensor, nn

from tasks.task import Recipe


def learning_rate(step: int, *, base: float, recipe: Recipe, warmup_steps: int) -> float:
    """The rate of the step after ``step`` steps: nothing but the step and the configuration decide it."""
    rate = base * recipe.decay_factor ** (step // recipe.decay_steps)
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps else rate


def adam(parameters: list[nn.Parameter], *, lr: float) -> torch.optim.Adam:
    """Fused Adam: one kernel for all tensors, and it can leave the weights alone without asking the host."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


class Guard:
    """Remembers, on the device, the first step whose loss or gradient was not finite; from then on no weight changes.

    The host asks only when it logs, so a CUDA device is never waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.tripped = torch.zeros((), device=device)  # Adam reads it as `found_inf`: not 0 means skip
        self.step = torch.full((), -1.0, device=device, dtype=torch.float64)
        self.terms: Tensor | None = None

    def watch(self, step: int, terms: Tensor, gradient_norm: Tensor | None) -> None:
        """terms: (n,) the loss terms of this step; no norm where a gradient scaler looks at gradients itself."""
        bad = ~torch.isfinite(terms).all()
        if gradient_norm is not None:
            bad = bad | ~torch.isfinite(gradient_norm)
        first = bad & (self.tripped == 0)
        self.step = torch.where(first, step, self.step)
        self.terms = terms if self.terms is None else torch.where(first | (self.tripped == 0), terms, self.terms)
        self.tripped = torch.maximum(self.tripped, bad.to(self.tripped.dtype))

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = self.tripped  # type: ignore[attr-defined]


class AveragedWeights:
    """Exponential moving average of a model's floating-point state; the rest of the state is the newest."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        current = model.state_dict()
        averaged = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[n] for n in averaged], [current[n] for n in averaged], 1 - self.decay)
        for name in current.keys() - set(averaged):
            self.state[name].copy_(current[name])

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state.items():
            value.copy_(state[name])


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The L2 norm over all gradients, on their device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def clip(parameters: list[nn.Parameter], *, norm: Tensor, largest: float) -> None:
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
