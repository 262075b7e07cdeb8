"""Dead units (part 3): units × examples where the nonlinearity is flat, and one unit followed to what comes into it."""

from __future__ import annotations

import torch
from torch import Tensor

from makemore_core.answers import DeadMap, MapLayer, Unit
from makemore_core.diagnostics import DeadUnits, rows
from makemore_core.engine import gradient_of
from makemore_core.layers import Linear, Tanh
from makemore_core.looking import Options, Parts, floats, present_batch, train_pass, whole
from makemore_core.model import EVALUATION_BATCH, Model
from makemore_core.snapshot import FLAT
from makemore_core.trainer import Trainer

MOST_EXAMPLES = 1_000


def dead_map(trainer: Trainer, options: Options) -> Parts[DeadMap]:
    """Units × examples where the nonlinearity is flat: |h| > 0.99, or exactly off for relu-like ones (part 3).

    Options: `layer`, the index of a row (default: the one with most dead units, else the flattest), `unit`, to follow
    one to its incoming weights and their gradient. The examples are the present minibatch's, 1,000 at most.
    A unit is dead if it is flat for every example of the whole training split.
    """
    net = trainer.model.clone()
    x, y = present_batch(trainer, min(trainer.config.batch_size, MOST_EXAMPLES))
    found = rows(net)
    outs = train_pass(net, x, y)
    flat = {index: brick.flat(outs[index].detach(), FLAT) for index, brick in found}
    dead = yield from _dead_units(trainer, x)
    worst = max(flat, key=lambda index: (int(dead[index].sum()), float(flat[index].float().mean())))
    layer = whole(options, "layer", worst, 0, max(flat))
    if layer not in flat:
        raise ValueError(f"layer={layer}: has to be one of {', '.join(map(str, flat))}")
    shown = DeadMap(
        layer=layer,
        threshold=FLAT if isinstance(dict(found)[layer], Tanh) else None,
        examples=len(y),
        share=float(flat[layer].float().mean()),
        map=[bits(row) for row in flat[layer].T],
        shares=floats(flat[layer].float().mean(0)),
        dead=[int(unit) for unit in dead[layer].nonzero().flatten()],
        layers=[
            MapLayer(
                index=index, kind=brick.kind, units=flat[index].shape[1], dead=int(dead[index].sum()),
                share=float(flat[index].float().mean()),
            )
            for index, brick in found
        ],
    )  # fmt: skip
    if "unit" in options:
        unit = whole(options, "unit", 0, 0, flat[layer].shape[1] - 1)
        shown.unit = _follow(net, layer, unit, bool(dead[layer][unit]))
    return shown


def bits(row: Tensor) -> str:
    """Booleans as hexadecimal digits, the first in the highest bit of the first digit."""
    text = "".join("1" if flag else "0" for flag in row.tolist())
    return "".join(f"{int(text[start : start + 4].ljust(4, '0'), 2):x}" for start in range(0, len(text), 4))


def _dead_units(trainer: Trainer, first: Tensor) -> Parts[dict[int, Tensor]]:
    """Per row a boolean for each unit: flat for every example of the training split.

    Looks at `first` (N, T), then at the split slice by slice, only as long as a unit is left that may be dead.
    """
    dead = DeadUnits(trainer.model)
    for x in [first, *torch.split(trainer.train_contexts.x, EVALUATION_BATCH)]:
        dead.look(x)
        yield
        if not dead.any():
            break
    return dead.units()


def _follow(net: Model, layer: int, unit: int, dead: bool) -> Unit:
    """One unit: what comes into it, and the gradient that reaches those weights."""
    leaves = net.leaves()
    behind = [index for index in range(layer) if isinstance(leaves[index], Linear)]
    if not behind:
        return Unit(unit, dead)
    linear = leaves[behind[-1]]
    assert isinstance(linear, Linear)
    return Unit(
        unit,
        dead,
        linear=behind[-1],
        weights=floats(linear.weight[:, unit]),
        weights_gradient=floats(gradient_of(linear.weight)[:, unit]),
        bias=None if linear.bias is None else float(linear.bias[unit]),
    )
