"""The backward pass by hand trains as autograd does, and looking at a run changes not one bit of it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.config import Config, Value
from makemore_core.dataset import Dataset, read
from makemore_core.diagnostics import DeadUnits
from makemore_core.engine import ManualEngine, PlainEngine, Taps, cross_entropy_backward
from makemore_core.model import build, evaluate, sample
from makemore_core.optim import Optimizer
from makemore_core.trainer import Trainer, drawn_in_blocks

SMALL: dict[str, Value] = {"n_layer": 2, "n_hidden": 10, "n_embd": 4, "batch_size": 16, "norm_groups": 5, "lr": 0.01}
NORMS = ["none", "batch", "layer", "group"]
OPTIMIZERS = ["sgd", "momentum", "rmsprop", "adam", "adamw"]
OPTIONS: list[dict[str, Value]] = [
    *({"norm": norm, "norm_place": place} for norm, place in itertools.product(NORMS, ["before", "after"])),
    *({"nonlinearity": name} for name in ("relu", "leaky_relu", "elu", "sigmoid", "identity")),
    *({"optimizer": name} for name in OPTIMIZERS),
    {"residual": True}, {"residual": True, "norm": "none"}, {"residual": True, "norm": "layer", "norm_place": "after"},
    {"bias": "on"}, {"norm": "none", "bias": "off"}, {"norm_output": False}, {"norm_variance": "pytorch"},
    {"n_layer": 1}, {"block_size": 5},
]  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("data") / "items.txt"
    path.write_text("\n".join(["anna", "bob", "abba", "nab", "onan", "ban", "boa", "noa", "bonn", "naan"]), "utf-8")
    return read(path)


def trainer(dataset: Dataset, **changes: Value) -> Trainer:
    return Trainer(Config().replace(SMALL | {"engine": "plain"} | changes), dataset)


def doubled(
    config: Config, dataset: Dataset, kind: type[PlainEngine] | type[ManualEngine]
) -> PlainEngine | ManualEngine:
    """An engine over a net in float64, where two ways of computing agree to almost the last digit for many steps."""
    model = build(config, dataset.vocabulary, torch.Generator().manual_seed(config.seed))
    for brick in [model.embedding, *model.leaves()]:
        for name, value in vars(brick).items():
            if isinstance(value, Tensor):
                setattr(brick, name, value.double())
    return kind(model, Optimizer(config, model.parameters()), dataset.examples(dataset.train, config.block_size))


@pytest.mark.parametrize("changes", OPTIONS, ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()))
def test_the_backward_pass_by_hand_trains_as_autograd_does(changes: dict[str, Value], dataset: Dataset) -> None:
    config = Config().replace(SMALL | changes)
    plain, manual = doubled(config, dataset, PlainEngine), doubled(config, dataset, ManualEngine)
    generator = torch.Generator().manual_seed(1)
    batches = torch.randint(0, len(plain.train.y), (60, 16), generator=generator)
    rates = [config.lr_at(step) for step in range(60)]
    losses = [engine.advance(batches, rates, tap=True) for engine in (plain, manual)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-9)
    for mine, theirs in zip(flat(plain.taps()), flat(manual.taps()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)
    for mine, theirs in zip(plain.model.buffers(), manual.model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def flat(taps: Taps) -> list[Tensor]:
    return [tensor for part in taps for tensor in part]


def test_cross_entropys_derivative_in_one_expression() -> None:
    logits = torch.randn(32, 27, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 27, (32,))
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    torch.testing.assert_close(cross_entropy_backward(logits.detach(), target), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("engine", ["plain", "manual"])
def test_the_taps_are_of_the_last_update(engine: str, dataset: Dataset) -> None:
    watched = trainer(dataset, engine=engine)
    watched.advance(5)
    before = [p.clone() for p in watched.model.parameters()]
    batch = watched.draw(1)
    watched.advance(1, tap=True, batches=batch)
    taps = watched.engine.taps()
    assert all(torch.equal(a, b) for a, b in zip(taps.before, before, strict=True))
    for after, previous, gradient in zip(watched.model.parameters(), before, taps.updates, strict=True):
        torch.testing.assert_close(after, previous - watched.config.lr * gradient)
    assert [tuple(out.shape) for out in taps.outs] == [(16, 10)] * 6 + [(16, dataset.vocabulary)] * 2
    assert [out.shape for out in taps.gradients] == [out.shape for out in taps.outs]
    target = watched.train.y[batch[0]]
    torch.testing.assert_close(taps.gradients[-1], cross_entropy_backward(taps.outs[-1], target))
    assert not any(tensor.requires_grad for tensor in flat(taps))


@pytest.mark.parametrize("engine", ["plain", "manual"])
def test_parameters_stay_where_they_are(engine: str, dataset: Dataset) -> None:
    """One engine can take over from another only if both change the same tensors in place."""
    moving = trainer(dataset, engine=engine, optimizer="adam")
    tensors = [*moving.model.parameters(), *moving.model.buffers(), *itertools.chain(*moving.optimizer.state)]
    places = [tensor.data_ptr() for tensor in tensors]
    moving.advance(3, tap=True)
    assert [tensor.data_ptr() for tensor in tensors] == places
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize(("norm", "optimizer"), [*itertools.product(NORMS, OPTIMIZERS)])
def test_watching_leaves_the_losses_bit_identical(norm: str, optimizer: str, dataset: Dataset) -> None:
    alone, watched = (trainer(dataset, n_layer=1, norm=norm, optimizer=optimizer) for _ in range(2))
    losses: list[float] = []
    for round_ in range(20):
        losses += watched.advance(20)
        for _ in range(5):
            losses += watched.advance(1, tap=True)
            watched.probe({})
        if round_ % 4 == 0:
            evaluate(watched.model, watched.val)
            list(sample(watched.model, dataset, 3, n=2))
            dead = DeadUnits(watched.model)
            dead.look(watched.train.x)
            copy = watched.model.clone()
            copy(watched.train.x)
    assert losses == alone.advance(500)
    assert watched.step == alone.step == 500
    for name, tensor in alone.tensors().items():
        assert torch.equal(tensor, watched.tensors()[name]), name


@pytest.mark.filterwarnings("ignore:var")
def test_batchnorm_with_a_batch_of_one_is_seen_to_diverge(dataset: Dataset) -> None:
    alone = trainer(dataset, batch_size=1, norm="batch")
    assert all(math.isnan(loss) for loss in alone.advance(3, tap=True))
    assert math.isnan(alone.probe({}).layers[0].activation.std)


# ---- the trainer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trainer_goes_on_bit_for_bit_where_another_left_off(optimizer: str, dataset: Dataset) -> None:
    first = trainer(dataset, optimizer=optimizer)
    first.advance(30)
    kept = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = trainer(dataset, optimizer=optimizer)
    second.restore(kept, 30, first.optimizer.count)
    assert second.step == 30
    assert first.advance(20) == second.advance(20)


def test_tensors_of_another_net_are_refused(dataset: Dataset) -> None:
    kept = trainer(dataset).tensors()
    for other in (trainer(dataset, n_hidden=20), trainer(dataset, optimizer="adam"), trainer(dataset, norm="none")):
        with pytest.raises(ValueError, match="belongs to another net"):
            other.restore(kept, 0, 0)
    with pytest.raises(ValueError, match="belongs to another net"):
        trainer(dataset).restore({name: t for name, t in kept.items() if name != "generator"}, 0, 0)


@pytest.mark.parametrize(
    "state",
    [*(torch.zeros(size, dtype=torch.uint8) for size in (5056, 7, ())), torch.zeros(5056)],
)
def test_a_generator_that_is_none_is_refused_before_anything_is_changed(state: Tensor, dataset: Dataset) -> None:
    first, second = trainer(dataset), trainer(dataset)
    first.advance(3)
    with pytest.raises(ValueError, match="generator"):
        second.restore(first.tensors() | {"generator": state}, 3, 3)
    assert second.advance(5) == trainer(dataset).advance(5)


def test_no_gpu_is_one_line(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    without = trainer(dataset, device="cuda")
    assert without.device.type == "cpu"
    assert without.notice == "no GPU that torch can use on this machine: training on the CPU"
    assert without.advance(3) == trainer(dataset).advance(3)


def test_what_a_gpu_draws_does_not_depend_on_how_many_are_drawn_at_once() -> None:
    def drawn(seed: int, step: int, n: int) -> torch.Tensor:
        return drawn_in_blocks(torch.device("cpu"), seed, step, (n, 32), 1000)

    whole = drawn(1, 0, 300)
    for parts in ((300,), (1, 63, 64, 65, 107), (1,) * 300):
        at = [sum(parts[:k]) for k in range(len(parts))]
        assert torch.equal(torch.cat([drawn(1, step, n) for step, n in zip(at, parts, strict=True)]), whole)
    assert len({tuple(row) for row in whole.tolist()}) == 300
    assert (int(whole.min()), int(whole.max())) == (0, 999)
    assert not {tuple(row) for row in whole.tolist()} & {tuple(row) for row in drawn(2, 0, 300).tolist()}
    assert drawn(2**63 - 1, 10**9, 1).shape == (1, 32)


def test_the_learning_rate_decays_at_its_step(dataset: Dataset) -> None:
    """Whatever the slices are in which the updates are run."""
    decayed, still = trainer(dataset, lr_decay_at=10), trainer(dataset, lr_decay_at=0)
    assert decayed.advance(11) == still.advance(11)  # the loss of update 10 is taken before it
    assert decayed.advance(1) != still.advance(1)


def test_a_live_change_of_the_rate_keeps_the_net_the_optimiser_and_the_taps(dataset: Dataset) -> None:
    live = trainer(dataset, optimizer="adam")
    live.advance(10, tap=True)
    model, state, seen = live.model, live.optimizer.state, live.probe({})
    live.reconfigure(live.config.replace({"lr": 0.5, "norm_momentum": 0.5, "steps": 5}))
    assert live.model is model
    assert live.optimizer.state is state
    assert live.probe({}) == seen
    assert [leaf.momentum for leaf in live.model.leaves() if hasattr(leaf, "momentum")] == [0.5] * 3
    live.advance(1)
    assert live.optimizer.count == 11


def test_a_live_change_of_the_optimiser_begins_its_state_anew(dataset: Dataset) -> None:
    live = trainer(dataset, optimizer="momentum")
    live.advance(10)
    model = live.model
    live.reconfigure(live.config.replace({"optimizer": "adam"}))
    assert live.model is model
    assert (live.optimizer.count, len(live.optimizer.state[0])) == (0, 2)
    live.advance(10)


def test_a_live_change_that_leaves_the_weights_keeps_what_the_optimiser_knows(dataset: Dataset) -> None:
    for change, kept in (({"nonlinearity": "relu"}, True), ({"gain": 2.0}, False), ({"norm": "none"}, False)):
        live = trainer(dataset, optimizer="adam")
        live.advance(10)
        state = live.optimizer.state
        live.reconfigure(live.config.replace(change))
        assert (live.optimizer.count, live.optimizer.state is state) == ((10, True) if kept else (0, False))
        live.advance(1)


def test_a_live_change_trains_on_with_the_same_minibatches(dataset: Dataset) -> None:
    live, other = trainer(dataset), trainer(dataset)
    live.advance(10)
    other.advance(10)
    live.reconfigure(live.config.replace({"norm": "none", "gain": 2.0, "nonlinearity": "relu"}))
    assert torch.equal(live.draw(5), other.draw(5))
    assert all(loss == loss for loss in live.advance(10))


@pytest.mark.parametrize(
    "changes", [{"n_hidden": 20}, {"norm_place": "after"}, {"seed": 3}, {"residual": True}], ids=str
)
def test_what_needs_a_new_net_cannot_be_changed_live(changes: dict[str, Value], dataset: Dataset) -> None:
    live = trainer(dataset)
    (name,) = changes
    with pytest.raises(ValueError, match=f"^{name}: .*restart"):
        live.reconfigure(live.config.replace(changes | {"gain": 2.0}))
    assert live.config == trainer(dataset).config


def test_the_examples_of_a_file_with_any_alphabet_train(tmp_path: Path) -> None:
    path = tmp_path / "items.txt"
    path.write_text("жук\nkäse\n🐈\n", "utf-8")
    assert len(trainer(read(path)).advance(3)) == 3
