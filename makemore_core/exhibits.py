"""What a net can be asked to show on top of its snapshots: dead units, its gradients by hand, BatchNorm, gains, rates.

Each exhibit works on a copy of the net and draws from generators of its own, so training goes on bit for bit as if
nobody had looked. Answers are plain JSON, for any front end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core import find_lr, part4
from makemore_core.config import Config, Value, field
from makemore_core.dataset import Split
from makemore_core.diagnostics import rows
from makemore_core.engine import cross_entropy_backward
from makemore_core.gradcheck import BACKWARD, Formulas
from makemore_core.layers import NONLINEARITIES, BatchNorm1d, Brick, Linear, Nonlinearity, Residual, Tanh
from makemore_core.model import EVALUATION_BATCH, Model, evaluate, gain
from makemore_core.snapshot import FLAT, SATURATED, Json
from makemore_core.trainer import Trainer

Options: TypeAlias = Mapping[str, Value]
Data: TypeAlias = dict[str, Json]

MOST_EXAMPLES = 1_000
OWN_SEED = 2147483647 + 20  # of everything that an exhibit draws
GAINS = (0.5, 0.75, 1.0, 1.25, 1.5, 5 / 3, 2.0, 2.5, 3.0)
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def _whole(options: Options, name: str, default: int, low: int, high: int) -> int:
    """A whole number from the options. Raises ValueError naming it, its value and what is allowed."""
    value = options.get(name, default)
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}={value}: has to be a whole number from {low:,} to {high:,}")
    return value


def _real(options: Options, name: str, default: float, low: float, high: float) -> float:
    value = options.get(name, default)
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f"{name}={value}: has to be a number from {low:g} to {high:g}")
    return number


def present_batch(trainer: Trainer, examples: int | None = None) -> Split:
    """The minibatch that the next update will see, or as many examples drawn in its stead."""
    batch = find_lr.upcoming(trainer, 1, examples or trainer.config.batch_size)[0]
    return Split(trainer.train.x[batch], trainer.train.y[batch])


def _floats(tensor: Tensor) -> list[Json]:
    return [float(x) for x in tensor.detach().flatten().tolist()]


# --- dead units --------------------------------------------------------------------------------------------------


def dead_map(trainer: Trainer, options: Options) -> Data:
    """Units × examples where the nonlinearity is flat: |h| > 0.99, or exactly off for relu-like ones (part 3).

    Options: `layer`, the index of a row (default: the one with most dead units, else the flattest), `examples` (of
    the present minibatch by default), `unit`, to follow one to its incoming weights and their gradient. `map` holds
    a row of bits a unit in hexadecimal, the first example first. A unit is dead if it is flat for every example of
    the whole training split.
    """
    net = trainer.model.clone()
    x, y = present_batch(trainer, _whole(options, "examples", trainer.config.batch_size, 1, MOST_EXAMPLES))
    found = rows(net)
    outs = _train_pass(net, x, y)
    flat = {index: brick.flat(outs[index].detach(), FLAT) for index, brick in found}
    dead = dead_units(trainer, x)
    if not flat:
        raise ValueError("dead-map: this net has no nonlinearity that could be flat")
    worst = max(flat, key=lambda index: (int(dead[index].sum()), float(flat[index].float().mean())))
    layer = _whole(options, "layer", worst, 0, max(flat))
    if layer not in flat:
        raise ValueError(f"layer={layer}: has to be one of {', '.join(map(str, flat))}")
    data: Data = {
        "layer": layer,
        "threshold": FLAT if isinstance(dict(found)[layer], Tanh) else None,
        "examples": len(y),
        "share": float(flat[layer].float().mean()),
        "map": [bits(row) for row in flat[layer].T],
        "shares": _floats(flat[layer].float().mean(0)),
        "dead": [int(unit) for unit in dead[layer].nonzero().flatten()],
        "layers": [
            {
                "index": index, "kind": brick.kind, "units": flat[index].shape[1], "dead": int(dead[index].sum()),
                "share": float(flat[index].float().mean()),
            }
            for index, brick in found
        ],
    }  # fmt: skip
    if "unit" in options:
        unit = _whole(options, "unit", 0, 0, flat[layer].shape[1] - 1)
        data["unit"] = _follow(net, layer, unit, outs[layer], trainer, bool(dead[layer][unit]))
    return data


def bits(row: Tensor) -> str:
    """Booleans as hexadecimal digits, the first in the highest bit of the first digit."""
    text = "".join("1" if flag else "0" for flag in row.tolist())
    return "".join(f"{int(text[start : start + 4].ljust(4, '0'), 2):x}" for start in range(0, len(text), 4))


@torch.no_grad()
def dead_units(trainer: Trainer, first: Tensor) -> dict[int, Tensor]:
    """Per row a boolean for each unit: flat for every example of the training split.

    Looks at `first` (N, T), then at the split slice by slice, only as long as a unit is left that may be dead.
    """
    flat: dict[int, Tensor] = {}
    for x in [first, *torch.split(trainer.train.x, EVALUATION_BATCH)]:
        for index, brick, out in _evaluation(trainer.model, x):
            if isinstance(brick, Nonlinearity):
                here = brick.flat(out, FLAT).all(0)
                flat[index] = here & flat.get(index, torch.ones_like(here))
        if not any(bool(units.any()) for units in flat.values()):
            break
    return flat


def _evaluation(model: Model, x: Tensor) -> Iterator[tuple[int, Brick, Tensor]]:
    """Every brick with its index and what it gives in evaluation, without a trace left in it."""
    out, index = model.embedding.infer(x), 0
    for layer in model.layers:
        entered = out
        for leaf in layer.leaves():
            out = leaf.infer(out)
            yield index, leaf, out
            index += 1
        if isinstance(layer, Residual):
            out = entered + out


def _train_pass(net: Model, x: Tensor, y: Tensor) -> list[Tensor]:
    """Forward and backward with autograd as in training, on a net that may be disturbed; what each brick gave."""
    parameters = net.parameters()
    for parameter in parameters:
        parameter.requires_grad_(True)
    loss = F.cross_entropy(net(x), y)
    outs = [leaf.out for leaf in net.leaves()]
    for out in outs:
        out.retain_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in parameters:
        parameter.requires_grad_(False)
    return outs


def _follow(net: Model, layer: int, unit: int, out: Tensor, trainer: Trainer, dead: bool) -> Data:
    """One unit: what it gives, what comes into it, and the gradient that reaches those weights."""
    leaves = net.leaves()
    behind = [index for index in range(layer) if isinstance(leaves[index], Linear)]
    data: Data = {
        "unit": unit,
        "dead": dead,
        "out": _floats(out[:, unit]),
        "gradient": _floats(part4.gradient_of(out)[:, unit]),
    }
    if behind:
        linear = leaves[behind[-1]]
        assert isinstance(linear, Linear)
        gradient = part4.gradient_of(linear.weight)[:, unit]
        data |= {
            "linear": behind[-1],
            "weights": _floats(linear.weight[:, unit]),
            "weights_gradient": _floats(gradient),
            "bias": None if linear.bias is None else float(linear.bias[unit]),
            "update": float(trainer.config.lr_at(trainer.step) * gradient.abs().mean()),
        }
    return data


# --- the backward pass by hand -----------------------------------------------------------------------------------


def backward(trainer: Trainer, _: Options) -> Data:
    """Every gradient by hand against autograd on the present minibatch (part 4).

    A net of one hidden layer with BatchNorm before its tanh is taken apart into the lecture's 26 pieces; any other
    goes brick by brick. `close` allows for rounding: the lecture's `allclose`, or a hundred-thousandth of the largest.
    """
    x, y = present_batch(trainer)
    net = trainer.model.clone()
    small = _part4_net(net)
    if small is not None:
        loss, gradients, short = part4.examine(small, x, y)
        return {
            "form": "pieces",
            "loss": loss,
            "gradients": [_row(comparison, *part4.PIECES[comparison.name]) for comparison in gradients],
            "one_expression": [_row(short[0], "(softmax(logits) - one_hot(Yb)) / n", "part 4, exercise 2"),
                               _row(short[1], BACKWARD["BatchNorm1d"].input, "part 4, exercise 3")],
        }  # fmt: skip
    return {"form": "bricks"} | _by_brick(net, trainer.model.clone(), x, y)


def _part4_net(net: Model) -> part4.Net | None:
    """The parameters in part 4's names, if the net is of its form."""
    match net.layers:
        case [Linear() as first, BatchNorm1d(unbiased=True, eps=part4.EPS) as norm, Tanh(), Linear() as second]:
            pass
        case _:
            return None
    b1 = torch.zeros_like(first.weight[0]) if first.bias is None else first.bias
    b2 = torch.zeros_like(second.weight[0]) if second.bias is None else second.bias
    gain_and_bias = norm.gamma.view(1, -1), norm.beta.view(1, -1)
    return part4.Net(net.embedding.weight, first.weight, b1, second.weight, b2, *gain_and_bias)


def _by_brick(net: Model, twin: Model, x: Tensor, y: Tensor) -> Data:
    outs = _train_pass(net, x, y)
    by_autograd = [part4.gradient_of(parameter) for parameter in net.parameters()]
    with torch.no_grad():
        logits = twin(x)
        twin.backward(cross_entropy_backward(logits, y))
        gradients: list[Json] = []
        parameters = iter(zip(twin.parameters(), by_autograd, strict=True))
        bricks = [(None, twin.embedding), *enumerate(twin.leaves())]
        for index, brick in bricks:
            formulas = BACKWARD.get(brick.kind, Formulas("", (), ""))
            label = f"{'' if index is None else index} {brick.kind}".strip()
            if index is not None:  # by what it gives: that is where the next brick's formula has led
                after = bricks[index + 2][1].kind if index + 2 < len(bricks) else "loss"
                formula = BACKWARD[after].input if after in BACKWARD else "(softmax(logits) - one_hot(y)) / n"
                compared = _compare(f"{label} out", brick.dout, part4.gradient_of(outs[index]))
                gradients.append(_row(compared, formula, formulas.place))
            names = ["weight", "bias"] if hasattr(brick, "weight") else ["gamma", "beta"]
            for name, formula, (parameter, autograd) in zip(
                names, formulas.parameters, _as_many(parameters, len(brick.parameters())), strict=False
            ):
                compared = _compare(f"{label} {name}", part4.gradient_of(parameter), autograd)
                gradients.append(_row(compared, formula, formulas.place))
    return {"loss": float(F.cross_entropy(logits, y)), "gradients": gradients, "one_expression": []}


def _as_many(pairs: Iterator[tuple[Tensor, Tensor]], count: int) -> list[tuple[Tensor, Tensor]]:
    return [next(pairs) for _ in range(count)]


def _compare(name: str, by_hand: Tensor, autograd: Tensor) -> part4.Comparison:
    compared = part4.compare(name, by_hand, autograd)
    return compared._replace(close=compared.close or compared.largest <= 1e-5 * float(autograd.abs().max()))


def _row(comparison: part4.Comparison, formula: str, place: str) -> Data:
    return comparison._asdict() | {"shape": list(comparison.shape), "formula": formula, "place": place}


# --- BatchNorm ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def batchnorm(trainer: Trainer, options: Options) -> Data:
    """BatchNorm looked into (part 3): its statistics, the losses each kind gives, an example and its company.

    Options: `examples` of the training split to calibrate and evaluate over (0, the default: all), `example`, the
    number of a training example, `companies`, how many minibatches to put it into, `scale` of the weights whose
    spread is shown. A net without BatchNorm has no layers to show, but its spread is shown all the same.
    """
    count = _whole(options, "examples", 0, 0, 10**9) or len(trainer.train.y)
    train = Split(trainer.train.x[:count], trainer.train.y[:count])
    batch = present_batch(trainer)
    running, batched = trainer.model.clone(), trainer.model.clone()
    norms = [(i, leaf) for i, leaf in enumerate(running.leaves()) if isinstance(leaf, BatchNorm1d)]
    data: Data = {"examples": len(train.y), "layers": [], "spread": spread(trainer.config, options)}
    if not norms:
        return data
    calibrated = calibrate(trainer.model.clone(), train.x)
    for leaf in batched.leaves():
        if isinstance(leaf, BatchNorm1d):
            leaf.momentum = 1.0  # the running statistics become the batch's own
    batched(batch.x)
    data["layers"] = [
        {
            "index": index,
            "momentum": leaf.momentum,
            "mean": {"batch": _floats(of_batch.running_mean), "running": _floats(leaf.running_mean),
                     "calibrated": _floats(of_all.running_mean)},
            "std": {"batch": _floats(of_batch.running_var.sqrt()), "running": _floats(leaf.running_var.sqrt()),
                    "calibrated": _floats(of_all.running_var.sqrt())},
        }
        for (index, leaf), of_batch, of_all in zip(norms, _norms(batched), _norms(calibrated), strict=True)
    ]  # fmt: skip
    data["losses"] = {
        "running": {"train": _loss(running, train), "val": _loss(running, trainer.val)},
        "calibrated": {"train": _loss(calibrated, train), "val": _loss(calibrated, trainer.val)},
        "batch": {"train": _batch_loss(trainer, train), "val": _batch_loss(trainer, trainer.val)},
    }
    data["company"] = _company(trainer, options)
    return data


def _norms(net: Model) -> list[BatchNorm1d]:
    return [leaf for leaf in net.leaves() if isinstance(leaf, BatchNorm1d)]


def calibrate(net: Model, x: Tensor) -> Model:
    """The same net with the mean and variance over all of `x` (N, T) for running statistics (part 3), in place."""
    out = net.embedding.infer(x)
    for layer in net.layers:
        entered = out
        for leaf in layer.leaves():
            if isinstance(leaf, BatchNorm1d):
                leaf.running_mean, leaf.running_var = out.mean(0), out.var(0)
            out = leaf.infer(out)
        if isinstance(layer, Residual):
            out = entered + out
    return net


def _loss(net: Model, split: Split) -> float | None:
    loss = evaluate(net, split)
    return loss if math.isfinite(loss) else None


def _batch_loss(trainer: Trainer, split: Split, most: int = 200) -> float | None:
    """Mean loss of up to `most` minibatches, each normalised by its own statistics, as in training."""
    if not len(split.y):
        return None
    net, generator = trainer.model.clone(), torch.Generator().manual_seed(OWN_SEED)
    size = (most, trainer.config.batch_size)
    batches = torch.randint(0, len(split.y), size, generator=generator).to(trainer.device)
    return sum(float(F.cross_entropy(net(split.x[batch]), split.y[batch])) for batch in batches) / most


def _company(trainer: Trainer, options: Options) -> Data:
    """The logits of one example, in evaluation and in the company of different minibatches."""
    example = _whole(options, "example", 0, 0, len(trainer.train.y) - 1)
    companies = _whole(options, "companies", 16, 2, 1000)
    x, net = trainer.train.x[example : example + 1], trainer.model.clone()
    generator = torch.Generator().manual_seed(OWN_SEED)
    size = (companies, max(1, trainer.config.batch_size - 1))
    others = torch.randint(0, len(trainer.train.y), size, generator=generator).to(trainer.device)
    logits = torch.stack([net(torch.cat([x, trainer.train.x[row]]))[0] for row in others])
    alone = trainer.model.infer(x)[0]
    probabilities = F.softmax(logits, 1)
    return {
        "example": example,
        "context": [int(index) for index in x[0]],
        "target": int(trainer.train.y[example]),
        "symbols": [".", *trainer.dataset.alphabet],
        "companies": companies,
        "alone": _floats(alone),
        "alone_probabilities": _floats(F.softmax(alone, 0)),
        "mean": _floats(logits.mean(0)),
        "std": _floats(logits.std(0)),
        "low": _floats(probabilities.min(0).values),
        "high": _floats(probabilities.max(0).values),
    }


def spread(config: Config, options: Options) -> Data:
    """Std through one Linear, and through Linear and BatchNorm, forward and backward (part 3), for weights of
    `scale` / sqrt(fan_in): normal numbers of std 1 go in on either side."""
    chosen = _real(options, "scale", 1.0, 1e-3, 1e3)
    generator = torch.Generator().manual_seed(OWN_SEED)
    fan_in = fan_out = min(config.n_hidden, 512)
    x, dout = (torch.randn((256, n), generator=generator) for n in (fan_in, fan_out))
    weight = torch.randn((fan_in, fan_out), generator=generator) / fan_in**0.5
    table: list[Json] = []
    for scale in sorted({*SCALES, chosen}):
        linear, norm = Linear(fan_in, fan_out, bias=False), BatchNorm1d(fan_out)
        linear.weight = weight * scale
        plain = linear(x)
        back = linear.backward(dout)
        normed = norm(plain)
        back_normed = linear.backward(norm.backward(dout))
        table.append({
            "scale": scale, "chosen": scale == chosen,
            "linear": {"forward": float(plain.std()), "backward": float(back.std())},
            "batchnorm": {"forward": float(normed.std()), "backward": float(back_normed.std())},
        })  # fmt: skip
    return {"fan_in": fan_in, "fan_out": fan_out, "table": table}


# --- gain --------------------------------------------------------------------------------------------------------


def gains(trainer: Trainer, options: Options) -> Data:
    """Std through the depth for gains from 0.5 to 3, and the value it settles at (part 3).

    Options: `depth` in layers (default: the net's own, at least 10), `nonlinearity` (the net's own), `gain`, one
    more to show, `units` in a layer. PyTorch's recommended gain is marked, and the net's own.
    """
    return through_depth(trainer.config, options)


@torch.no_grad()
def through_depth(config: Config, options: Options) -> Data:
    """The same for a configuration, without a net."""
    depth = _whole(options, "depth", max(config.n_layer, 10), 1, 200)
    units = _whole(options, "units", min(config.n_hidden, 200), 2, 1000)
    kind = str(options.get("nonlinearity", config.nonlinearity))
    kind = str(config.replace({field("nonlinearity"): kind}).nonlinearity)
    recommended = gain(config.replace({"nonlinearity": kind, "gain": "auto"}))
    own = gain(config)
    shown = sorted({*GAINS, recommended, _real(options, "gain", own, 0.0, 100.0)})
    table: list[Json] = [
        {"gain": value, "recommended": value == recommended, "own": value == own, **_chain(value, depth, units, kind)}
        for value in shown
    ]
    return {"depth": depth, "units": units, "nonlinearity": kind, "recommended": recommended, "gains": table}


def _chain(factor: float, depth: int, units: int, kind: str) -> Data:
    """Normal numbers through `depth` layers of gain / sqrt(fan_in) weights."""
    generator = torch.Generator().manual_seed(OWN_SEED)
    x = torch.randn((500, units), generator=generator)
    act = NONLINEARITIES[kind]()
    std: list[Json] = []
    saturated: list[Json] = []
    for _ in range(depth):
        weight = torch.randn((units, units), generator=generator) * (factor / units**0.5)
        x = act.infer(x @ weight)
        std.append(float(x.std()))
        saturated.append(float(act.flat(x, SATURATED).float().mean()))
    return {"std": std, "saturated": saturated, "settles": float(x.std())}


# --- learning rate -----------------------------------------------------------------------------------------------


def learning_rates(trainer: Trainer, options: Options) -> Data:
    """The range test of part 2 on a copy; option `updates` (default 1,000)."""
    updates = _whole(options, "updates", find_lr.UPDATES, 10, 100_000)
    return find_lr.plain(find_lr.range_test(trainer, updates))


EXHIBITS: dict[str, Callable[[Trainer, Options], Data]] = {
    "dead-map": dead_map,
    "backward": backward,
    "batchnorm": batchnorm,
    "gain": gains,
    "find-lr": learning_rates,
}
