"""Gain looked into (part 3): the spread through the depth for gains from 0.5 to 3, and the value it settles at."""

from __future__ import annotations

import torch

from makemore_core.answers import GainRow, Gains
from makemore_core.config import Config
from makemore_core.layers import NONLINEARITIES
from makemore_core.looking import OWN_SEED, Options, Parts, whole
from makemore_core.model import gain
from makemore_core.snapshot import SATURATED
from makemore_core.trainer import Trainer

GAINS = (0.5, 0.75, 1.0, 1.25, 1.5, 5 / 3, 2.0, 2.5, 3.0)
MOST_UNITS = 200  # in a layer, however many the net has


def gains(trainer: Trainer, options: Options) -> Parts[Gains]:
    """Std through the depth for gains from 0.5 to 3, and the value it settles at (part 3).

    Option: `depth` in layers (default: the net's own, at least 10). The net's own gain is shown too, and marked, and
    the one that PyTorch recommends.
    """
    return through_depth(trainer.config, options)


@torch.no_grad()
def through_depth(config: Config, options: Options) -> Parts[Gains]:
    """The same for a configuration, without a net."""
    depth = whole(options, "depth", max(config.n_layer, 10), 1, 200)
    units, kind = min(max(config.n_hidden, 2), MOST_UNITS), config.nonlinearity
    own, recommended = gain(config), gain(config.replace({"gain": "auto"}))
    table: list[GainRow] = []
    for value in sorted({*GAINS, recommended, own}):
        std, saturated = _chain(value, depth, units, kind)
        table.append(GainRow(value, recommended=value == recommended, own=value == own, std=std, saturated=saturated))
        yield
    return Gains(depth, units, nonlinearity=kind, recommended=recommended, gains=table)


def _chain(factor: float, depth: int, units: int, kind: str) -> tuple[list[float], list[float]]:
    """Normal numbers through `depth` layers of gain / sqrt(fan_in) weights: std and saturated share behind each."""
    generator = torch.Generator().manual_seed(OWN_SEED)
    x = torch.randn((500, units), generator=generator)
    act = NONLINEARITIES[kind]()
    std: list[float] = []
    saturated: list[float] = []
    for _ in range(depth):
        weight = torch.randn((units, units), generator=generator) * (factor / units**0.5)
        x = act.infer(x @ weight)
        std.append(float(x.std()))
        saturated.append(float(act.flat(x, SATURATED).float().mean()))
    return std, saturated
