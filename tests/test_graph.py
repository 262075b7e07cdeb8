"""The steps that are captured on a GPU, run without one: they are the plain engine's, for every norm and optimiser."""

from __future__ import annotations

import functools
import gc
import math
import weakref
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch

from makemore_core import find_lr, graph, trainer
from makemore_core.command import Command, Look, Restart, Set, Stop, Twin
from makemore_core.config import Config, Value
from makemore_core.dataset import Dataset
from makemore_core.engine import PlainEngine
from makemore_core.exhibits import EXHIBITS
from makemore_core.graph import GraphEngine, Replayed, Result, steps, update_factors
from makemore_core.model import build
from makemore_core.optim import Optimizer
from makemore_core.session import Session
from makemore_core.watch import Watch
from tests.scripted import Move, play

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


class Again:
    """What a captured graph does, without a GPU: the work done anew, its results put where the first ones were."""

    def __init__(self, work: Callable[[], object], result: object) -> None:
        self._work, self._result = work, result

    def replay(self) -> None:
        for old, new in zip(tensors(self._result), tensors(self._work()), strict=True):
            old.copy_(new)


def tensors(results: object) -> list[torch.Tensor]:
    if isinstance(results, torch.Tensor):
        return [results]
    return [one for part in results for one in tensors(part)] if isinstance(results, list | tuple) else []


def again(work: Callable[[], Result], _: object) -> tuple[Replayed, Result]:
    result = work()
    return Again(work, result), result


def compiled(engine: GraphEngine) -> None:
    """Wait until its fused kernels are, or cannot be."""
    if engine.compiling is not None:
        engine.compiling.exception()


@pytest.mark.parametrize("chunks", [[75], [1], [64, 8, 1, 2], [100, 137]], ids=str)
@pytest.mark.parametrize("tap", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_any_number_of_steps_is_a_few_graphs(
    monkeypatch: pytest.MonkeyPatch, chunks: list[int], tap: bool, optimizer: str
) -> None:
    monkeypatch.setattr(graph, "capture", again)
    config = SMALL.replace({"optimizer": optimizer, "lr": 0.01})
    train = DATASET.examples(DATASET.train, config.block_size)
    generator = torch.Generator().manual_seed(1)
    nets = [build(config, DATASET.vocabulary, torch.Generator().manual_seed(config.seed)) for _ in range(2)]
    plain = PlainEngine(nets[0], Optimizer(config, nets[0].parameters()), train)
    ours = GraphEngine(nets[1], Optimizer(config, nets[1].parameters()), train, fuse=False)
    for n in chunks:
        batches = torch.randint(0, len(train.y), (n, config.batch_size), generator=generator)
        rates = [config.lr / (1 + at) for at in range(n)]
        expected = plain.advance(batches, rates, tap)
        torch.testing.assert_close(ours.advance(batches, rates, tap), expected, rtol=1e-3, atol=1e-4)
        if tap:
            for part, reference in zip(ours.taps(), plain.taps(), strict=True):
                for a, b in zip(part, reference, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max()) + 1e-6)
    assert ours.optimizer.count == sum(chunks)


def test_a_net_that_cannot_be_captured_is_trained_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(work: Callable[[], object], _: object) -> NoReturn:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(graph, "capture", failing)
    monkeypatch.setattr(trainer, "FastEngine", GraphEngine)
    config = SMALL.replace({"optimizer": "adamw", "engine": "fast"})
    ours, plain = (trainer.Trainer(one, DATASET) for one in (config, config.replace({"engine": "plain"})))
    assert ours.engine.name == "plain"
    assert ours.notice == "no CUDA graphs: operation not permitted when stream is capturing"
    assert ours.advance(5) == plain.advance(5)
    monkeypatch.setattr(graph, "capture", again)
    ours.reconfigure(config.replace({"batch_size": 7}))
    assert (ours.engine.name, ours.notice) == ("graph", "")


def test_why_there_are_no_fused_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "capture", again)
    monkeypatch.setattr(trainer, "FastEngine", GraphEngine)
    ours = trainer.Trainer(SMALL.replace({"norm": "layer", "engine": "fast"}), DATASET)
    assert isinstance(ours.engine, GraphEngine)
    compiled(ours.engine)
    ours.advance(1)
    assert ours.notice.startswith("no fused kernels: no")  # kernels for LayerNorm, or module named triton
    gone = weakref.ref(ours.engine)
    del ours
    gc.collect()
    assert gone() is None, "what went wrong holds the engine with its graphs"


@pytest.mark.parametrize("change", [{"momentum": 0.5}, {"batch_size": 7}, {"norm_momentum": 0.3}, {"lr": 0.2}], ids=str)
def test_what_a_graph_has_built_in_makes_a_new_one(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, int | float]
) -> None:
    monkeypatch.setattr(graph, "capture", again)
    monkeypatch.setattr(trainer, "FastEngine", functools.partial(GraphEngine, fuse=False))
    config = SMALL.replace({"optimizer": "momentum", "lr": 0.02, "engine": "fast"})
    ours, plain = (trainer.Trainer(one, DATASET) for one in (config, config.replace({"engine": "plain"})))
    assert (ours.engine.name, plain.engine.name) == ("graph", "plain")
    engine = ours.engine
    for one in (ours, plain):
        one.advance(5)
        one.reconfigure(one.config.replace(change))
    assert (ours.engine is engine) == ("lr" in change)
    assert ours.advance(20) == pytest.approx(plain.advance(20), rel=1e-3)
    for mine, theirs in zip(ours.model.buffers(), plain.model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_replayed_graphs_train_as_the_plain_engine_does(optimizer: str, fuse: bool) -> None:
    config = SMALL.replace({"optimizer": optimizer, "lr": 0.01})
    device = torch.device("cuda")
    train = DATASET.examples(DATASET.train, config.block_size)
    batches = torch.randint(0, len(train.y), (75, config.batch_size), generator=torch.Generator().manual_seed(1))
    nets = [build(config, DATASET.vocabulary, torch.Generator().manual_seed(config.seed)) for _ in range(2)]
    plain = PlainEngine(nets[0], Optimizer(config, nets[0].parameters()), train)
    nets[1].to(device)
    on_device = type(train)(train.x.to(device), train.y.to(device))
    replayed = GraphEngine(nets[1], Optimizer(config, nets[1].parameters()), on_device, fuse=fuse)
    compiled(replayed)
    expected = plain.advance(batches, [config.lr] * 75, True)
    losses = replayed.advance(batches.to(device), [config.lr] * 75, True)
    assert (replayed.name, replayed.problem) == ("fused" if fuse else "graph", "")
    torch.testing.assert_close(losses.cpu(), expected, rtol=1e-3, atol=1e-4)
    for ours, reference in zip(replayed.taps().gradients, plain.taps().gradients, strict=True):
        torch.testing.assert_close(ours.cpu(), reference, rtol=1e-2, atol=1e-3 * float(reference.abs().max()) + 1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"n_hidden": 200, "norm": "layer"}, {"batch_size": 33, "optimizer": "adam"}], ids=str
)
def test_a_run_survives_all_that_can_be_done_to_it(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Value]
) -> None:
    """Graphs made and dropped while others live, probes and exhibits in between, and back to a net that was left."""
    monkeypatch.setattr(find_lr, "LONGEST", 0.0)
    config = Config(device="cuda", engine="fast", steps=10**6).replace(changes)
    if not torch.cuda.is_available():
        monkeypatch.setattr(graph, "capture", again)
        monkeypatch.setattr(trainer, "FastEngine", functools.partial(GraphEngine, fuse=False))
        config = config.replace({"device": "cpu", "n_layer": 2, "n_hidden": 20})

    def at(step: int, attempt: int, command: Command) -> Move:
        def now(run: Session) -> bool:
            engine = run.trainer.engine
            compiled = isinstance(engine, GraphEngine) and engine.compiling is None
            return run.attempt == attempt and run.trainer.step >= step and compiled

        return Move(now, command)

    moves = [
        at(100, 0, Twin({"gain": 1.0})),
        at(100, 1, Restart()),
        at(100, 2, Set({"norm": "none"}, live=True)),
        at(150, 3, Set({"n_hidden": 16})),
        *(at(100, 4, Look(name)) for name in EXHIBITS),
        at(300, 4, Stop()),
    ]
    ran, script = play(few_names, *moves, config=config, watch=Watch(every=50))
    assert [outcome.error for outcome in script.outcomes] == [None] * len(moves)
    assert (ran.state, ran.message) == ("stopped", "saved")
    assert all(math.isfinite(loss) for loss in script.losses)
    assert {exhibit.name for exhibit in script.exhibits} == set(EXHIBITS)
