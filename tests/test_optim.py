"""Every optimiser against torch.optim on the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from makemore_core.config import Config, Value
from makemore_core.optim import Optimizer

SETTINGS: dict[str, Value] = {
    "momentum": 0.8, "beta1": 0.85, "beta2": 0.97, "optimizer_eps": 1e-6, "weight_decay": 0.03, "lr": 0.02,
}  # fmt: skip
THEIRS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, foreach=False),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.97, eps=1e-6, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.85, 0.97), eps=1e-6, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.85, 0.97), eps=1e-6, weight_decay=0.03, foreach=False),
}


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in ((30, 20), (20,), (20, 5))]


@pytest.mark.parametrize("name", THEIRS)
def test_updates_are_those_of_torch_optim(name: str) -> None:
    mine, theirs = parameters(), parameters()
    places = [p.data_ptr() for p in mine]
    optimizer = Optimizer(Config().replace(SETTINGS | {"optimizer": name}), mine)
    reference = THEIRS[name](theirs)
    for step in range(50):
        generator = torch.Generator().manual_seed(step)
        lr = 0.02 if step < 30 else 0.002  # the decay on the way
        reference.param_groups[0]["lr"] = lr
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator) * 0.3
            b.grad = a.grad.clone()
        optimizer.update(lr)
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert optimizer.count == 50
    assert [p.data_ptr() for p in mine] == places  # in place, for the engines share these tensors


@pytest.mark.parametrize("name", THEIRS)
def test_gradients_are_left_as_they_are(name: str) -> None:
    (mine, *_) = parameters()
    mine.grad = torch.ones_like(mine)
    Optimizer(Config(optimizer=name), [mine]).update(0.1)  # type: ignore[arg-type]
    assert torch.equal(mine.grad, torch.ones_like(mine))
