"""The fused kernels against autograd, without a GPU by Triton's interpreter; and compiled for a Hopper GPU."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from makemore_core import graph, kernels
from makemore_core.config import Config
from makemore_core.dataset import Dataset, Split
from makemore_core.engine import PlainEngine
from makemore_core.fused import MOST, Fused, launch
from makemore_core.graph import GraphEngine, agrees, pull
from makemore_core.model import Model, build
from makemore_core.optim import Optimizer
from tests.test_graph import DATASET, SMALL, again, compiled

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = 1 if DEVICE.type == "cpu" else 20  # a GPU adds in another order, and its exp is not the last word


def net(config: Config, dataset: Dataset = DATASET) -> tuple[Model, Split]:
    model = build(config, dataset.vocabulary, torch.Generator().manual_seed(config.seed)).to(DEVICE)
    return model, Split(*(part.to(DEVICE) for part in dataset.examples(dataset.train, config.block_size)))


def number() -> torch.Tensor:
    return torch.empty((), device=DEVICE)


BATCH = torch.arange(19, device=DEVICE)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layer": 1, "block_size": 1},
        {"n_hidden": 50, "batch_size": 33, "n_embd": 17, "block_size": 5},
        {"batch_size": 1, "norm": "none"},
        {"batch_size": MOST, "n_layer": 1},
        {"norm_variance": "pytorch", "norm_momentum": 0.5},
        {"norm": "none"},
        {"norm": "none", "residual": True, "n_layer": 3},
        {"norm_place": "after", "residual": True, "n_layer": 3},
        {"bias": "on", "norm_output": False},
        {"bias": "off", "norm": "none"},
        *({"nonlinearity": name} for name in ("relu", "leaky_relu", "elu", "sigmoid", "identity")),
        *({"nonlinearity": name, "norm_place": "after"} for name in ("relu", "identity")),
    ],
    ids=str,
)
def test_loss_gradients_and_running_statistics_are_those_of_autograd(
    changes: dict[str, int | float | str | bool],
) -> None:
    config = SMALL.replace(changes)
    model, train = net(config)
    batch = torch.randint(0, len(train.y), (config.batch_size,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    twin, loss = model.clone(), number()
    ours = Fused(model, train).gradients(batch, loss)
    expected_loss, expected, _, _ = pull(twin, train, batch)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5 * ROUNDING, atol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for gradient, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4 * ROUNDING, atol=2e-6 * largest * ROUNDING)
    for mine, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5 * ROUNDING, atol=1e-6)


@pytest.mark.parametrize(("nonlinearity", "gain", "n_layer"), [("tanh", 0.5, 20), ("elu", 0.3, 14)])
def test_a_net_that_fades_with_depth_keeps_its_digits(
    nonlinearity: str, gain: float, n_layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last outs would be lost in the rounding of a 1. That is seen to on every machine, however small they are."""
    model, train = net(SMALL.replace({"norm": "none", "nonlinearity": nonlinearity, "gain": gain, "n_layer": n_layer}))
    ours = Fused(model, train).gradients(BATCH, number())
    _, expected, _, _ = pull(model, train, BATCH)
    for gradient, reference in zip(ours, expected, strict=True):
        largest = float(reference.abs().max())
        torch.testing.assert_close(gradient, reference, rtol=0.0, atol=1e-5 * ROUNDING * largest)
    assert agrees(Fused(model, train), BATCH)
    right = Fused.gradients

    def wrong(self: Fused, batch: torch.Tensor, loss: torch.Tensor) -> list[torch.Tensor]:
        *gradients, weight, bias = right(self, batch, loss)
        return [*gradients, 1.01 * weight, bias]

    monkeypatch.setattr(Fused, "gradients", wrong)
    assert not agrees(Fused(model, train), BATCH)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_a_net_that_diverged_is_seen_to() -> None:
    model, train = net(SMALL.replace({"norm": "none"}))
    model.parameters()[1][0, 0] = float("nan")
    loss = number()
    Fused(model, train).gradients(BATCH, loss)
    assert bool(torch.isnan(loss))


def test_two_launches_a_layer() -> None:
    model, train = net(SMALL.replace({"n_layer": 5}))
    launched = []

    def count(kernel: Any, programs: int, **arguments: Any) -> None:
        launched.append(kernel)
        launch(kernel, programs, **arguments)

    Fused(model, train).gradients(BATCH, number(), count)
    assert [launched.count(kernel) for kernel in (kernels.forward, kernels.backward)] == [6, 6]
    assert len(launched) == 14


@pytest.fixture
def two_graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Few graphs, captured without a GPU; says whether the fused kernels are the faster ones there."""
    monkeypatch.setattr(graph, "capture", again)
    monkeypatch.setattr(graph, "SIZES", (3, 1))
    monkeypatch.setattr(graph, "GRAPHS", ((1, True), (3, False), (1, False)))

    def taking(faster: bool) -> None:
        # the new ones first, warm the second time
        times = iter([9.0, 1.0, 9.0, 2.0] if faster else [1.0, 2.0, 1.0, 2.0])
        monkeypatch.setattr(graph, "seconds", lambda _: next(times))

    taking(faster=True)
    return taking


@pytest.mark.usefixtures("two_graphs")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_they_take_over_between_two_calls_and_train_as_the_plain_engine_does(optimizer: str) -> None:
    config = SMALL.replace({"optimizer": optimizer, "lr": 0.01, "n_hidden": 16, "n_layer": 1})
    model, train = net(config)
    reference, _ = net(config)
    ours = GraphEngine(model, Optimizer(config, model.parameters()), train)
    plain = PlainEngine(reference, Optimizer(config, reference.parameters()), train)
    assert ours.name == "graph"
    compiled(ours)
    generator = torch.Generator().manual_seed(1)
    for n in (1, 5, 3):
        batches = torch.randint(0, len(train.y), (n, config.batch_size), generator=generator).to(DEVICE)
        expected = plain.advance(batches, [config.lr] * n, True)
        torch.testing.assert_close(ours.advance(batches, [config.lr] * n, True), expected, rtol=1e-3, atol=1e-4)
        assert (ours.name, ours.problem) == ("fused", "")
    for part, expected_part in zip(ours.taps(), plain.taps(), strict=True):
        for a, b in zip(part, expected_part, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max()) + 1e-6)


def test_watching_changes_nothing(two_graphs: Callable[[bool], None]) -> None:
    config = SMALL.replace({"n_hidden": 16, "n_layer": 1})
    seen, engines = list[list[torch.Tensor]](), list[GraphEngine]()
    for tap in (True, False):
        two_graphs(True)
        model, train = net(config)
        engine = GraphEngine(model, Optimizer(config, model.parameters()), train)
        compiled(engine)
        losses = [engine.advance(BATCH.repeat(4, 1), [0.1] * 4, tap) for _ in range(3)]
        seen.append([*losses, *(tensor for _, tensor in model.named_tensors())])
        engines.append(engine)
    assert [engine.name for engine in engines] == ["fused", "fused"]
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_kernels_that_are_slower_on_a_machine_do_not_take_over(two_graphs: Callable[[bool], None]) -> None:
    two_graphs(False)
    model, train = net(SMALL)
    engine = GraphEngine(model, Optimizer(SMALL, model.parameters()), train)
    compiled(engine)
    engine.advance(BATCH.repeat(3, 1), [0.1] * 3, False)
    assert (engine.name, engine.problem) == ("graph", "no fused kernels: they are slower than torch's on this GPU")


def test_an_engine_that_is_done_with_is_not_kept_by_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "capture", again)
    busy = threading.Event()
    graph.COMPILER.submit(busy.wait)
    model, train = net(SMALL)
    engine = GraphEngine(model, Optimizer(SMALL, model.parameters()), train)
    compiling, gone = engine.compiling, weakref.ref(engine)
    try:
        del engine
        gc.collect()
        assert gone() is None
        assert compiling is not None
        assert compiling.cancelled()
    finally:
        busy.set()


def test_kernels_that_are_wrong_on_a_machine_do_not_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "capture", again)
    right = Fused.gradients

    def wrong(self: Fused, batch: torch.Tensor, loss: torch.Tensor, *run: Any) -> list[torch.Tensor]:
        gradients = right(self, batch, loss, *run)
        gradients[3] = gradients[3] * 1.1
        return gradients

    monkeypatch.setattr(graph, "GRAPHS", ((1, True), (1, False)))
    monkeypatch.setattr(graph, "SIZES", (1,))
    model, train = net(SMALL)
    before = [tensor.clone() for _, tensor in model.named_tensors()]
    assert agrees(Fused(model, train), BATCH)
    monkeypatch.setattr(Fused, "gradients", wrong)
    assert not agrees(Fused(model, train), BATCH)
    assert all(bool((a == b).all()) for a, (_, b) in zip(before, model.named_tensors(), strict=True))
    engine = GraphEngine(model, Optimizer(SMALL, model.parameters()), train)
    compiled(engine)
    engine.advance(BATCH.repeat(3, 1), [0.1] * 3, False)
    assert (engine.name, engine.problem) == (
        "graph",
        "no fused kernels: their gradients are not those of torch on this GPU",
    )


def test_kernels_that_do_not_start_on_a_machine_do_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "capture", again)
    right = Fused.gradients

    def failing(self: Fused, batch: torch.Tensor, loss: torch.Tensor, *run: Any) -> list[torch.Tensor]:
        if not run:
            raise OSError("no C compiler\nmore lines")
        return right(self, batch, loss, *run)

    monkeypatch.setattr(Fused, "gradients", failing)
    model, train = net(SMALL)
    engine = GraphEngine(model, Optimizer(SMALL, model.parameters()), train)
    compiled(engine)
    engine.advance(BATCH.repeat(3, 1), [0.1] * 3, False)
    assert (engine.name, engine.problem) == ("graph", "no fused kernels: no C compiler")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"norm": "layer"}, "no kernels for LayerNorm"),
        ({"norm": "group", "norm_groups": 4}, "no kernels for GroupNorm"),
        ({"batch_size": MOST + 1}, "more than 128 examples in a batch"),
    ],
    ids=str,
)
def test_what_they_do_not_know_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, int | str], why: str
) -> None:
    monkeypatch.setattr(graph, "capture", again)
    config = SMALL.replace(change)
    model, train = net(config)
    engine = GraphEngine(model, Optimizer(config, model.parameters()), train)
    compiled(engine)
    engine.advance(torch.zeros((2, config.batch_size), dtype=torch.int64, device=DEVICE), [0.1] * 2, False)
    assert (engine.name, engine.problem) == ("graph", f"no fused kernels: {why}")


def test_they_compile_for_a_gpu_once_and_hardly_spill() -> None:
    """In a process of its own, where they are not interpreted. How many registers are short is up to the compiler."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.hopper"],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    spilled = {tuple(line.split()[::3]) for line in done.stdout.splitlines()}
    assert {name for name, _ in spilled} == {"forward", "backward", "cross_entropy", "embedding"}
    assert all(int(of_bytes) < 64 for _, of_bytes in spilled), done.stdout
