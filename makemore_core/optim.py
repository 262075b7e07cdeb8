"""How gradients become updates: torch.optim's formulas over state that every engine shares and changes in place."""

from __future__ import annotations

import torch
from torch import Tensor

from makemore_core.config import Config

SLOTS = {"sgd": 0, "momentum": 1, "rmsprop": 1, "adam": 2, "adamw": 2}


class Optimizer:
    """`state` holds, per parameter, as many tensors of its shape as the rule needs; `count` the updates so far."""

    def __init__(self, config: Config, parameters: list[Tensor]) -> None:
        self.config = config
        self.parameters = parameters
        self.state = [[torch.zeros_like(p) for _ in range(SLOTS[config.optimizer])] for p in parameters]
        self.count = 0

    @torch.no_grad()
    def update(self, lr: float) -> None:
        """One update of every parameter, in place, from its `.grad`."""
        config = self.config
        self.count += 1
        for parameter, slots in zip(self.parameters, self.state, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            match config.optimizer:
                case "sgd":
                    parameter += -lr * gradient
                case "momentum":
                    slots[0].mul_(config.momentum).add_(gradient)
                    parameter += -lr * slots[0]
                case "rmsprop":
                    slots[0].mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
                    parameter.addcdiv_(gradient, slots[0].sqrt().add_(config.optimizer_eps), value=-lr)
                case "adam" | "adamw":
                    if config.optimizer == "adamw":
                        parameter.mul_(1 - lr * config.weight_decay)
                    slots[0].lerp_(gradient, 1 - config.beta1)
                    slots[1].mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
                    root = slots[1].sqrt() / (1 - config.beta2**self.count) ** 0.5
                    parameter.addcdiv_(
                        slots[0], root.add_(config.optimizer_eps), value=-lr / (1 - config.beta1**self.count)
                    )
