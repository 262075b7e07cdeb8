"""BatchNorm looked into (part 3): its statistics and the losses they give, an example in company, the spread."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.answers import BatchNorms, Company, Kinds, Losses, NormLayer, Spread, SpreadRow, TrainVal, Ways
from makemore_core.config import Config
from makemore_core.dataset import Split, distinct
from makemore_core.layers import BatchNorm1d, Linear
from makemore_core.looking import OWN_SEED, Options, Parts, floats, present_batch, real, whole
from makemore_core.model import EVALUATION_BATCH, Model, evaluation
from makemore_core.trainer import Trainer

COMPANIES = 16  # minibatches that an example is put into
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MOST_BATCHES = 1000  # of a whole split, which would take long, so many tell enough


@torch.no_grad()
def batchnorm(trainer: Trainer, options: Options) -> Parts[BatchNorms]:
    """BatchNorm looked into (part 3): its statistics, the losses each kind gives, an example and its company.

    Options: `examples` of each split to calibrate and evaluate over (0, the default: all), `example`, the number of a
    training example that is put into other minibatches, `scale` of the weights whose spread is shown. A net without
    BatchNorm has no layers to show, but its spread is shown all the same.
    """
    count = whole(options, "examples", 0, 0, 10**9) or len(trainer.train.y)
    train, val = (Split(split.x[:count], split.y[:count]) for split in (trainer.train, trainer.val))
    batch, running, batched = present_batch(trainer), trainer.model, trainer.model.clone()
    example = whole(options, "example", 0, 0, len(trainer.train.y) - 1)
    norms = [(i, leaf) for i, leaf in enumerate(running.leaves()) if isinstance(leaf, BatchNorm1d)]
    shown = BatchNorms(examples=len(train.y), layers=[], spread=spread(trainer.config, options))
    if not norms:
        return shown
    calibrated = yield from calibrate(running.clone(), train.x)
    for leaf in _norms(batched):
        leaf.momentum = 1.0  # the running statistics become the batch's own
    batched(batch.x)
    for (index, leaf), of_batch, of_all in zip(norms, _norms(batched), _norms(calibrated), strict=True):
        kinds = of_batch, leaf, of_all
        mean = Kinds(*(floats(norm.running_mean) for norm in kinds))
        std = Kinds(*(floats(norm.running_var.sqrt()) for norm in kinds))
        shown.layers.append(NormLayer(index, leaf.momentum, mean, std))
    shown.losses = Losses(
        running=TrainVal((yield from _loss(running, train)), (yield from _loss(running, val))),
        calibrated=TrainVal((yield from _loss(calibrated, train)), (yield from _loss(calibrated, val))),
        batch=TrainVal((yield from _batch_loss(trainer, train)), (yield from _batch_loss(trainer, val))),
    )
    shown.company = yield from _company(trainer, example)
    return shown


def _norms(net: Model) -> list[BatchNorm1d]:
    return [leaf for leaf in net.leaves() if isinstance(leaf, BatchNorm1d)]


def calibrate(net: Model, x: Tensor) -> Parts[Model]:
    """The same net with the mean and variance over all of `x` (N, T) for running statistics (part 3), in place."""
    walks = [net.infer_by_brick(part) for part in torch.split(x, EVALUATION_BATCH)]
    for behind in [*net.leaves()[1:], None]:
        total = squares = torch.zeros((), dtype=torch.float64, device=x.device)
        for walk in walks:
            out = next(walk)[2].double()
            if isinstance(behind, BatchNorm1d):  # it stands behind another brick, also in a residual connection
                total, squares = total + out.sum(0), squares + out.square().sum(0)
            yield
        if isinstance(behind, BatchNorm1d):
            mean = total / len(x)
            behind.running_mean = mean.float()
            behind.running_var = ((squares - len(x) * mean.square()) / (len(x) - 1)).clamp_min(0.0).float()
    return net


def _loss(net: Model, split: Split) -> Parts[float | None]:
    loss = 0.0
    for part in evaluation(net, distinct(split)):
        loss += part
        yield
    return loss / len(split.y) if math.isfinite(loss) else None


def _batch_loss(trainer: Trainer, split: Split) -> Parts[float]:
    """Mean loss in whole minibatches of the examples, each normalised by its own statistics, as in training."""
    net, generator, loss = trainer.model.clone(), torch.Generator().manual_seed(OWN_SEED), 0.0
    shuffled = torch.randperm(len(split.y), generator=generator).to(trainer.device)
    # each example once: far less noise than drawing them
    first, *others = torch.split(shuffled, trainer.config.batch_size)
    batches = [first, *(batch for batch in others if len(batch) == len(first))][:MOST_BATCHES]
    for batch in batches:
        loss += float(F.cross_entropy(net(split.x[batch]), split.y[batch]))
        yield
    return loss / len(batches)


def _company(trainer: Trainer, example: int) -> Parts[Company]:
    """The logits of one example, in evaluation and in the company of different minibatches."""
    x, net = trainer.train.x[example : example + 1], trainer.model.clone()
    generator, seen = torch.Generator().manual_seed(OWN_SEED), list[Tensor]()
    size = (COMPANIES, max(1, trainer.config.batch_size - 1))
    for row in torch.randint(0, len(trainer.train.y), size, generator=generator).to(trainer.device):
        seen.append(net(torch.cat([x, trainer.train.x[row]]))[0])
        yield
    alone, logits = F.softmax(trainer.model.infer(x)[0], 0), torch.stack(seen)
    probabilities = F.softmax(logits, 1)
    return Company(
        example=example,
        context=[int(index) for index in x[0]],
        target=int(trainer.train.y[example]),
        symbols=[".", *trainer.dataset.alphabet],
        companies=COMPANIES,
        alone_probabilities=floats(alone),
        std=floats(logits.std(0)),
        low=floats(probabilities.min(0).values),
        high=floats(probabilities.max(0).values),
    )


def spread(config: Config, options: Options) -> Spread:
    """Std through one Linear, and through Linear and BatchNorm, forward and backward (part 3), for weights of
    `scale` / sqrt(fan_in): normal numbers of std 1 go in on either side."""
    chosen = real(options, "scale", 1.0, 1e-3, 1e3)
    generator = torch.Generator().manual_seed(OWN_SEED)
    fan_in = fan_out = min(config.n_hidden, 512)
    x, dout = (torch.randn((256, n), generator=generator) for n in (fan_in, fan_out))
    weight = torch.randn((fan_in, fan_out), generator=generator) / fan_in**0.5
    table: list[SpreadRow] = []
    for scale in sorted({*SCALES, chosen}):
        linear, norm = Linear(fan_in, fan_out, bias=False), BatchNorm1d(fan_out)
        linear.weight = weight * scale
        plain = linear(x)
        back = linear.backward(dout)
        normed = norm(plain)
        back_normed = linear.backward(norm.backward(dout))
        bare = Ways(forward=float(plain.std()), backward=float(back.std()))
        behind = Ways(forward=float(normed.std()), backward=float(back_normed.std()))
        table.append(SpreadRow(scale, chosen=scale == chosen, linear=bare, batchnorm=behind))
    return Spread(fan_in, fan_out, table)
