"""The steps that are captured on a GPU, run without one: they are the plain engine's, for every norm and optimiser."""

from __future__ import annotations

import pytest
import torch

from makemore_core.config import Config
from makemore_core.dataset import Dataset
from makemore_core.engine import PlainEngine
from makemore_core.graph import GraphEngine, steps, update_factors
from makemore_core.model import build
from makemore_core.optim import Optimizer

WORDS = ("anna", "ben", "clara", "dora", "emil", "frida", "gustav", "hanna", "ida")
DATASET = Dataset("", "", WORDS, WORDS, WORDS, tuple(sorted(set("".join(WORDS)))))
SMALL = Config(n_layer=2, n_hidden=20, n_embd=5, batch_size=19, lr=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_variance": "pytorch"},
        {"norm": "none"},
        {"norm": "layer"},
        {"norm": "group", "norm_groups": 4},
        {"residual": True, "n_layer": 3, "norm_place": "after"},
        {"optimizer": "momentum", "lr": 0.02},
        {"optimizer": "rmsprop", "lr": 0.001},
        {"optimizer": "adam", "lr": 0.001},
        {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_the_steps_are_those_of_the_plain_engine(changes: dict[str, int | float | str | bool]) -> None:
    config = SMALL.replace(changes)
    train = DATASET.examples(DATASET.train, config.block_size)
    batches = torch.randint(0, len(train.y), (30, config.batch_size), generator=torch.Generator().manual_seed(1))
    nets = [build(config, DATASET.vocabulary, torch.Generator().manual_seed(config.seed)) for _ in range(2)]
    optimizers = [Optimizer(config, net.parameters()) for net in nets]
    plain = PlainEngine(nets[0], optimizers[0], train)
    expected = plain.advance(batches, [config.lr] * 30, True)
    factors = update_factors(optimizers[1], [config.lr] * 30)
    losses, taps = steps(nets[1], optimizers[1], train, batches, factors, True)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert taps is not None
    for ours, reference in zip(taps, plain.taps(), strict=True):
        for a, b in zip(ours, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)
    for mine, theirs in zip(nets[1].buffers(), nets[0].buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in nets[1].parameters())


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    net = build(SMALL, DATASET.vocabulary, torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"^no CUDA graphs: the net is not on a GPU$"):
        GraphEngine(net, Optimizer(SMALL, net.parameters()), DATASET.examples(DATASET.train, SMALL.block_size))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_replayed_graphs_train_as_the_plain_engine_does(optimizer: str) -> None:
    config = SMALL.replace({"optimizer": optimizer, "lr": 0.01})
    device = torch.device("cuda")
    train = DATASET.examples(DATASET.train, config.block_size)
    batches = torch.randint(0, len(train.y), (75, config.batch_size), generator=torch.Generator().manual_seed(1))
    nets = [build(config, DATASET.vocabulary, torch.Generator().manual_seed(config.seed)) for _ in range(2)]
    plain = PlainEngine(nets[0], Optimizer(config, nets[0].parameters()), train)
    nets[1].to(device)
    on_device = type(train)(train.x.to(device), train.y.to(device))
    graph = GraphEngine(nets[1], Optimizer(config, nets[1].parameters()), on_device)
    expected = plain.advance(batches, [config.lr] * 75, True)
    losses = graph.advance(batches.to(device), [config.lr] * 75, True)
    torch.testing.assert_close(losses.cpu(), expected, rtol=1e-3, atol=1e-4)
    for ours, reference in zip(graph.taps().gradients, plain.taps().gradients, strict=True):
        torch.testing.assert_close(ours.cpu(), reference, rtol=1e-2, atol=1e-5)
