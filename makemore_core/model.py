"""The net: an embedding and a list of bricks, built from a Config as the lecture draws it; evaluation and sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.config import Config
from makemore_core.dataset import EDGE, Dataset, Distinct, Split, distinct
from makemore_core.layers import (
    NONLINEARITIES,
    BatchNorm1d,
    Brick,
    Embedding,
    GroupNorm,
    LayerNorm,
    Linear,
    Norm,
    Residual,
)

SAMPLING_SEED = 2147483647 + 10  # part 3, "sample from the model"
LONGEST_NAME = 200
EVALUATION_BATCH = 2048


class Model:
    """Character MLP: embedding (V, C), then hidden layers, then logits (B, V)."""

    def __init__(self, embedding: Embedding, layers: list[Brick]) -> None:
        self.embedding = embedding
        self.layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        """Contexts (B, T) -> logits (B, V), as in training: every brick keeps its `out`."""
        out = self.embedding(x)
        for layer in self.layers:
            out = layer(out)
        return out

    def infer(self, x: Tensor) -> Tensor:
        """Contexts (B, T) -> logits (B, V), as in evaluation: running statistics, no trace left."""
        with torch.no_grad():
            out = self.embedding.infer(x)
            for layer in self.layers:
                out = layer.infer(out)
        return out

    def infer_by_brick(self, x: Tensor) -> Iterator[tuple[int, Brick, Tensor]]:
        """The same brick by brick, to look at: each with its index and what it gives; the logits come last."""
        out, index = self.embedding.infer(x), 0
        for layer in self.layers:
            entered = out
            for leaf in layer.leaves():
                out = leaf.infer(out)
                yield index, leaf, out
                index += 1
            if isinstance(layer, Residual):
                out = entered + out

    def backward(self, dlogits: Tensor) -> None:
        """The backward pass by hand: fills `.grad` of every parameter from d loss / d logits (B, V)."""
        for layer in reversed(self.layers):
            dlogits = layer.backward(dlogits)
        self.embedding.backward(dlogits)

    def leaves(self) -> list[Brick]:
        """The bricks after the embedding, residual connections opened: the position is the `index` people see."""
        return [leaf for layer in self.layers for leaf in layer.leaves()]

    def parameters(self) -> list[Tensor]:
        """Everything that training changes: the embedding first, then brick by brick."""
        return self.embedding.parameters() + [p for layer in self.layers for p in layer.parameters()]

    def buffers(self) -> list[Tensor]:
        """The running statistics."""
        return [b for layer in self.layers for b in layer.buffers()]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers by name (`C`, `0.weight`, `1.gamma`, `1.running_mean`): what a checkpoint holds."""
        yield "C", self.embedding.weight
        for index, leaf in enumerate(self.leaves()):
            for name, value in vars(leaf).items():
                if any(value is tensor for tensor in leaf.parameters() + leaf.buffers()):
                    yield f"{index}.{name}", value

    def clone(self) -> Model:
        """A copy that shares nothing with this net, for what must not be disturbed by training or disturb it."""
        return Model(_clone(self.embedding), [_clone(layer) for layer in self.layers])

    def to(self, target: torch.device | torch.dtype) -> Model:
        """The same net, its tensors on that device or of that dtype."""
        for brick in [self.embedding, *self.leaves()]:
            for name, value in list(vars(brick).items()):
                if isinstance(value, Tensor):
                    setattr(brick, name, value.to(target))
        return self


AnyBrick = TypeVar("AnyBrick", bound=Brick)


def _clone(brick: AnyBrick) -> AnyBrick:
    twin = copy.copy(brick)
    if isinstance(twin, Residual):
        twin.bricks = tuple(map(_clone, twin.bricks))
        return twin
    kept = [id(tensor) for tensor in brick.parameters() + brick.buffers()]
    for name, value in vars(brick).items():
        if id(value) in kept:
            setattr(twin, name, value.detach().clone())
    return twin


def gain(config: Config) -> float:
    """What all weights but the last layer's are multiplied by (part 3, "apply gain").

    `auto` is `torch.nn.init.calculate_gain` of the nonlinearity.
    """
    if config.gain != "auto":
        return float(config.gain)
    if config.nonlinearity == "elu":
        return 1.0  # calculate_gain knows no ELU; its slope at 0 is 1
    kind = "linear" if config.nonlinearity == "identity" else config.nonlinearity
    return torch.nn.init.calculate_gain(kind)


def build(config: Config, vocabulary: int, generator: torch.Generator) -> Model:
    """A net as the lecture draws it (part 3): the embedding first, then each layer's weight (and bias) in order."""
    embedding = Embedding(vocabulary, config.n_embd, generator)
    fan_in = config.n_embd * config.block_size
    layers: list[Brick] = []
    for number in range(config.n_layer):
        bricks = _hidden(config, fan_in, generator)
        layers += [Residual(*bricks)] if config.residual and number else bricks
        fan_in = config.n_hidden
    return Model(embedding, layers + _output(config, fan_in, vocabulary, generator))


def _hidden(config: Config, fan_in: int, generator: torch.Generator) -> list[Brick]:
    before = config.norm != "none" and config.norm_place == "before"
    linear = Linear(fan_in, config.n_hidden, _has_bias(config, before), generator)
    if config.fan_in != "off":
        linear.weight /= fan_in**0.5
    linear.weight *= gain(config)
    _draw_bias(linear, config.bias_init, config.bias_drawn, generator)
    nonlinearity = NONLINEARITIES[config.nonlinearity]()
    if config.norm == "none":
        return [linear, nonlinearity]
    norm = _norm(config, config.n_hidden)
    return [linear, norm, nonlinearity] if before else [linear, nonlinearity, norm]


def _output(config: Config, fan_in: int, vocabulary: int, generator: torch.Generator) -> list[Brick]:
    normalised = _normalises_logits(config)
    linear = Linear(fan_in, vocabulary, _has_bias(config, normalised), generator)
    if config.fan_in == "on":
        linear.weight /= fan_in**0.5
    _draw_bias(linear, config.last_bias_init, config.bias_drawn, generator)
    if not normalised:
        linear.weight *= config.last_shrink
        return [linear]
    linear.weight *= gain(config)  # no longer the last of the layers: it gets what all others get
    norm = _norm(config, vocabulary)
    norm.gamma *= config.last_shrink
    return [linear, norm]


def _normalises_logits(config: Config) -> bool:
    return config.norm != "none" and config.norm_output


def _has_bias(config: Config, norm_follows: bool) -> bool:
    return config.bias == "on" or (config.bias == "auto" and not norm_follows)


def _draw_bias(linear: Linear, scale: float, drawn: bool, generator: torch.Generator) -> None:
    if linear.bias is not None and (drawn or scale):
        linear.bias.copy_(torch.randn(linear.bias.shape, generator=generator) * scale)


def _norm(config: Config, features: int) -> Norm:
    if config.norm == "batch":
        return BatchNorm1d(features, config.norm_eps, config.norm_momentum, unbiased=config.norm_variance == "lecture")
    if config.norm == "layer":
        return LayerNorm(features, config.norm_eps)
    groups = config.norm_groups
    while features % groups:  # the logits: the largest number of groups that divides the vocabulary
        groups -= 1
    return GroupNorm(groups, features, config.norm_eps)


def adapt(model: Model, before: Config, after: Config) -> Model:
    """The net that `after` describes with the weights that `model` has: what a live change does.

    Every weight is multiplied by what gain, fan-in division and last_shrink would have made of it at the start; a norm
    that comes in is as it is at the start, so `last_shrink` moves between the last weight and the gamma behind it; a
    nonlinearity is swapped. Weights that were drawn with a factor of 0, which no other brings back, are drawn again.
    """
    vocabulary, device = len(model.embedding.weight), model.embedding.weight.device
    fresh = build(after, vocabulary, torch.Generator().manual_seed(after.seed)).to(device)
    fresh.embedding = model.embedding
    old = [leaf for leaf in model.leaves() if isinstance(leaf, Linear)]
    new = [leaf for leaf in fresh.leaves() if isinstance(leaf, Linear)]
    for index, (source, target) in enumerate(zip(old, new, strict=True)):
        had, has = (_scale(config, source, index == len(old) - 1) for config in (before, after))
        if had == has:
            target.weight = source.weight
        elif had:
            target.weight = source.weight * (has / had)
        if target.bias is not None and source.bias is not None:
            target.bias = source.bias
        elif target.bias is not None:
            target.bias = torch.zeros_like(target.bias)
    if before.norm == after.norm:
        norms = [leaf for leaf in model.leaves() if isinstance(leaf, Norm)]
        for kept, made in zip(norms, [leaf for leaf in fresh.leaves() if isinstance(leaf, Norm)], strict=True):
            for a, b in zip(made.parameters() + made.buffers(), kept.parameters() + kept.buffers(), strict=True):
                a.copy_(b)
    return fresh


def _scale(config: Config, linear: Linear, last: bool) -> float:
    divided = config.fan_in == "on" or (config.fan_in == "hidden" and not last)
    shrunk = last and not _normalises_logits(config)
    return (config.last_shrink if shrunk else gain(config)) / (linear.weight.shape[0] ** 0.5 if divided else 1.0)


def evaluate(model: Model, split: Split) -> float:
    """Mean cross-entropy over a whole split, with the running statistics."""
    return sum(evaluation(model, distinct(split))) / len(split.y)


def evaluation(model: Model, examples: Distinct, infer: Callable[[Tensor], Tensor] | None = None) -> Iterator[float]:
    """The same, a slice at a time: the summed cross-entropy of each, so that training need not wait for the whole.

    `infer` stands in for the model's own, for who wants to look at the net on the way.
    """
    first = 0
    for at, x in enumerate(torch.split(examples.x, EVALUATION_BATCH)):
        shift = at * EVALUATION_BATCH
        last = int(torch.searchsorted(examples.row, shift + len(x)))
        row, y, times = (part[first:last] for part in examples[1:])
        losses = F.log_softmax((infer or model.infer)(x), 1)[row - shift, y]
        yield -float((losses.double() * times).sum())
        first = last


def sample(
    model: Model,
    dataset: Dataset,
    block_size: int,
    n: int = 20,
    seed: int = SAMPLING_SEED,
    temperature: float = 1.0,
    longest: int = LONGEST_NAME,
    start: str = "",
) -> Iterator[str]:
    """`n` names, drawn as the lecture draws them (part 3), with a generator of their own; each as soon as it is drawn.

    `temperature` divides the logits. A net whose logits are not finite gives no names. A name is cut at `longest`
    characters, for nets that never end one. Every name begins with `start`. Raises ValueError for a temperature that
    is not above 0, and for a start with characters that the net does not know.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: has to be above 0")
    begun = dataset.indices(start)
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        context, drawn = [EDGE] * block_size + begun, list(begun)
        while len(drawn) < longest:
            logits = model.infer(torch.tensor([context[-block_size:]], device=device)).cpu() / temperature
            if not bool(torch.isfinite(logits).all()):
                return
            index = int(torch.multinomial(F.softmax(logits, dim=1), 1, generator=generator))
            if index == EDGE:
                break
            drawn.append(index)
            context.append(index)
        yield dataset.text(drawn)
