"""Exhibits tell the truth about a net, and looking changes nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F

from makemore_core import dataset, find_lr
from makemore_core.answers import GradientRow, MapLayer
from makemore_core.config import Value
from makemore_core.dataset import Split
from makemore_core.deadmap import bits
from makemore_core.exhibits import EXHIBITS
from makemore_core.layers import Tanh
from makemore_core.looking import Parts, at_once, copy_of, present_batch
from makemore_core.model import evaluate
from makemore_core.normed import calibrate
from makemore_core.presets import PRESETS
from makemore_core.snapshot import Exhibit, from_json, to_json
from makemore_core.trainer import Trainer


@functools.cache
def names() -> dataset.Dataset:
    whole = dataset.read()
    return whole._replace(train=whole.train[::20], val=whole.val[::20])


def trained(preset: str, steps: int = 20, **changes: Value) -> Trainer:
    trainer = Trainer(PRESETS[preset].config().replace({"engine": "plain"} | changes), names())
    trainer.advance(steps)
    return trainer


def look(trainer: Trainer, name: str, **options: Value) -> Any:
    """As an exhibit is looked at: after a journey as JSON."""
    shown = at_once(EXHIBITS[name](trainer, options))
    sent = from_json(to_json(Exhibit(name, trainer.step, msgspec.to_builtins(shown))))
    assert isinstance(sent, Exhibit)
    return msgspec.convert(sent.data, type(shown))


@pytest.mark.parametrize("preset", ["mlp-batchnorm", "deep-batchnorm", "fifty-layers-residual", "deep-tanh"])
def test_looking_changes_nothing(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_lr, "LONGEST", 0.0)  # a range test of the fewest updates
    shallower = {"n_layer": 8} if preset.startswith("fifty") else {}
    watched, alone = trained(preset, 3, **shallower), trained(preset, 3, **shallower)
    for name in EXHIBITS:
        look(watched, name)
    assert watched.advance(5) == alone.advance(5)
    for name, tensor in alone.tensors().items():
        assert torch.equal(tensor, watched.tensors()[name]), name


@pytest.mark.parametrize(("name", "fewest"), [("dead-map", 1), ("batchnorm", 100), ("find-lr", find_lr.FEWEST)])
def test_training_that_goes_on_meanwhile_is_not_seen(name: str, fewest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_lr, "LONGEST", 0.0)
    monkeypatch.setattr(find_lr, "PIECE", 0.0)
    going, waiting, alone = (trained("deep-batchnorm", 3, n_layer=2) for _ in range(3))
    parts, losses = EXHIBITS[name](copy_of(going), {}), list[float]()

    def between() -> Iterator[None]:
        while True:
            losses.extend(going.advance(1))
            yield

    assert at_once(_in_turn(parts, between())) == at_once(EXHIBITS[name](waiting, {}))
    assert losses == alone.advance(len(losses))
    assert len(losses) >= fewest


def _in_turn(parts: Parts[msgspec.Struct], between: Iterator[None]) -> Parts[msgspec.Struct]:
    while True:
        try:
            yield next(parts)
        except StopIteration as done:
            answer: msgspec.Struct = done.value
            return answer
        next(between)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_looking_leaves_the_optimiser_alone(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_lr, "LONGEST", 0.0)
    watched, alone = (trained("mlp-batchnorm", 3, optimizer=optimizer, n_hidden=20) for _ in range(2))
    look(watched, "find-lr")
    assert copy_of(watched).optimizer.count == watched.optimizer.count == alone.optimizer.count == 3
    assert watched.advance(5) == alone.advance(5)


def test_a_run_does_not_wait_long_for_its_range_test(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained("mlp-batchnorm", 3, n_hidden=20)
    for bearable, updates in ((1000.0, find_lr.UPDATES), (0.0, find_lr.FEWEST)):
        monkeypatch.setattr(find_lr, "LONGEST", bearable)
        assert len(look(trainer, "find-lr").rates) == updates


# --- dead units


def test_the_map_of_saturated_units_is_that_of_the_lecture() -> None:
    trainer = trained("mlp-softmax")
    shown = look(trainer, "dead-map", layer=1)
    x, _ = present_batch(trainer)
    net = trainer.model.clone()
    net(x)
    flat = net.leaves()[1].out.abs() > 0.99
    assert [list(map(int, f"{int(row, 16):032b}")) for row in shown.map] == flat.T.int().tolist()
    assert shown.share == pytest.approx(float(flat.float().mean()))
    assert shown.share > 0.5
    assert shown.dead == []


def test_a_dead_unit_is_one_that_is_flat_for_the_whole_split() -> None:
    trainer = trained("mlp-kaiming", n_hidden=20, nonlinearity="relu")
    linear = trainer.model.leaves()[0]
    linear.bias[7] = -100.0
    batch = look(trainer, "dead-map")
    assert batch.dead == [7]
    assert batch.shares[7] == 1.0
    assert batch.layers[0] == MapLayer(index=1, kind="ReLU", units=20, dead=1, share=batch.layers[0].share)
    # one example that wakes the unit, anywhere in the split, is enough
    example = trainer.model.embedding.infer(trainer.train.x[-1:])
    linear.bias[7] -= (example @ linear.weight)[0, 7] + linear.bias[7] - 0.1
    assert look(trainer, "dead-map").dead == []


def test_the_map_is_of_the_layer_with_most_dead_units_else_of_the_flattest() -> None:
    trainer = trained("deep-tanh-gain3")
    shown = look(trainer, "dead-map")
    least, *_, most = sorted(shown.layers, key=lambda row: row.share)
    assert (shown.layer, shown.dead) == (most.index, [])
    linear = trainer.model.leaves()[least.index - 1]
    linear.weight[:, 7], linear.bias[7] = 0.0, 100.0
    shown = look(trainer, "dead-map")
    assert (shown.layer, shown.dead) == (least.index, [7])


def test_a_unit_followed_to_its_weights() -> None:
    trainer = trained("deep-tanh")
    unit = look(trainer, "dead-map", layer=7, unit=4).unit
    linear = trainer.model.leaves()[6]
    assert unit.linear == 6
    assert unit.weights == pytest.approx(linear.weight[:, 4].tolist())
    x, y = present_batch(trainer)
    net = trainer.model.clone()
    weight = net.leaves()[6].weight.requires_grad_(True)
    F.cross_entropy(net(x), y).backward()
    assert unit.weights_gradient == pytest.approx(weight.grad[:, 4].tolist(), abs=1e-9)


def test_bits() -> None:
    assert bits(torch.tensor([True, False, False, False, True])) == "88"
    assert bits(torch.zeros(8, dtype=torch.bool)) == "00"


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("dead-map", {"layer": 4}, "layer=4: has to be one of 2, 5"),
        ("dead-map", {"unit": 100000}, "unit=100000: has to be a whole number from 0 to 99"),
        ("dead-map", {"unit": "3"}, "unit=3: has to be a whole number from 0 to 99"),
        ("batchnorm", {"example": -1}, "example=-1"),
        ("batchnorm", {"scale": "2"}, "scale=2"),
        ("gain", {"depth": 10**6}, "depth=1000000"),
    ],
)
def test_bad_options(name: str, options: dict[str, Value], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        at_once(EXHIBITS[name](trained("deep-batchnorm", 1, n_layer=2), options))


@pytest.mark.parametrize(
    ("name", "changes", "key", "value"),
    [
        ("dead-map", {"batch_size": 2048}, "examples", 1000),
        ("gain", {"n_hidden": 1}, "units", 2),
        ("gain", {"gain": -1.0}, "recommended", 5 / 3),
        ("gain", {"gain": 200.0}, "recommended", 5 / 3),
    ],
)
def test_any_net_can_be_asked_for_its_own_defaults(
    name: str, changes: dict[str, Value], key: str, value: float
) -> None:
    shown = look(trained("deep-tanh", 1, n_layer=2, **changes), name)
    assert getattr(shown, key) == pytest.approx(value)
    if "gain" in changes:
        assert [row.gain for row in shown.gains if row.own] == [changes["gain"]]


# --- the backward pass


def test_26_pieces_for_the_net_of_part_4() -> None:
    shown = look(trained("mlp-batchnorm", 200, bias="on"), "backward")
    assert shown.form == "pieces"
    assert len(shown.gradients) == 26
    assert all(row.close and row.formula and row.place for row in shown.gradients)
    h = shown.gradients[8]
    assert h == GradientRow(
        "h", [32, 200], h.exact, True, h.largest, "dlogits @ W2.T", "second linear layer", False, h.size
    )
    assert all(row.close for row in shown.one_expression)
    assert "b1" not in [row.name for row in look(trained("mlp-batchnorm"), "backward").gradients]


@pytest.mark.parametrize("preset", ["mlp-batchnorm", "deep-tanh"])
def test_the_logits_of_one_example_are_pulled_up_and_down(preset: str) -> None:
    trainer = trained(preset)
    shown = look(trainer, "backward")
    example = shown.example
    assert example.name in [row.name for row in shown.gradients]
    x, y = present_batch(trainer)
    logits = trainer.model.clone()(x).requires_grad_(True)
    F.cross_entropy(logits, y).backward()
    assert logits.grad is not None
    assert example.dlogits == pytest.approx((32 * logits.grad[0]).tolist(), abs=1e-6)
    assert [n for n, pull in enumerate(example.dlogits) if pull < 0] == [example.target]


@pytest.mark.parametrize(
    ("preset", "changes", "count"),
    [
        ("deep-batchnorm", {}, 17 + 1 + 6 + 12),
        ("deep-tanh", {}, 11 + 1 + 5 + 2 + 5),
        ("fifty-layers-residual", {"n_layer": 8}, 26 + 1 + 9 + 18),
        ("deep-batchnorm", {"norm": "layer", "nonlinearity": "elu"}, None),
        ("deep-batchnorm", {"norm": "group", "nonlinearity": "leaky_relu"}, None),
        ("mlp-batchnorm", {"norm_variance": "pytorch"}, None),
    ],
)
def test_any_net_goes_brick_by_brick(preset: str, changes: dict[str, Value], count: int | None) -> None:
    shown = look(trained(preset, 30, **changes), "backward")
    assert shown.form == "bricks"
    assert [row for row in shown.gradients if not row.close] == []
    assert all(row.formula for row in shown.gradients)
    assert count is None or len(shown.gradients) == count


@pytest.mark.filterwarnings("ignore:var")
def test_the_net_of_part_4_with_a_batch_of_one_goes_brick_by_brick() -> None:
    assert look(trained("mlp-batchnorm", 1, batch_size=1), "backward").form == "bricks"


def test_the_formula_beside_a_gradient_is_the_one_that_was_computed() -> None:
    changes: dict[str, Value] = {"norm": "none", "residual": True, "n_layer": 3}
    shown = look(trained("deep-batchnorm", 1, **changes), "backward")
    formulas = {row.name: (row.formula, row.place) for row in shown.gradients}
    linear = "part 4, exercise 1"
    assert formulas["1 Tanh out"] == ("dout @ weight.T + d(3 Tanh out)", linear)  # (1 -> 2, 3) past 2 and 3
    assert formulas["3 Tanh out"] == ("dout @ weight.T + d(5 Tanh out)", linear)
    assert formulas["5 Tanh out"] == ("dout @ weight.T", linear)
    assert formulas["2 Linear out"] == ("(1 - out**2) * dout", linear)
    assert formulas["6 Linear out"] == ("(softmax(logits) - one_hot(y)) / n", "part 4, exercise 2")
    for variance, divisor in (("lecture", "/ (n-1))"), ("pytorch", "/ n)")):
        shown = look(trained("deep-batchnorm", 1, norm_variance=variance), "backward")
        (formula,) = {row.formula for row in shown.gradients if row.name.endswith("Linear out")}
        assert formula.endswith(divisor)


def test_a_wrong_backward_pass_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tanh, "pull_back", lambda self, dout: (1.0 - self.out) * dout)
    shown = look(trained("deep-tanh", 3), "backward")
    wrong = [row.name for row in shown.gradients if not row.close]
    assert "8 Linear out" in wrong
    assert "10 Linear weight" not in wrong


def test_the_gradients_of_the_weights_are_counted_on_one_scale() -> None:
    trainer = trained("deep-tanh")
    shown = look(trainer, "weight-gradients")
    x, y = present_batch(trainer)
    net = trainer.model.clone()
    weights = {"C": net.embedding.weight} | {f"{at}.weight": net.leaves()[at].weight for at in range(0, 12, 2)}  # type: ignore[attr-defined]
    for weight in weights.values():
        weight.requires_grad_(True)
    F.cross_entropy(net(x), y).backward()
    assert shown.counts.keys() == weights.keys()
    assert [sum(counts) for counts in shown.counts.values()] == [weight.numel() for weight in weights.values()]
    stds = sorted(float(weight.grad.std()) for weight in weights.values())  # type: ignore[union-attr]
    assert shown.reach == pytest.approx(3 * stds[3])
    inside = int((net.leaves()[10].weight.grad.abs() < shown.reach * 0.9).sum())  # type: ignore[attr-defined]
    assert sum(shown.counts["10.weight"][2:-2]) == pytest.approx(inside, rel=0.1)


# --- BatchNorm


def test_calibration_is_the_statistics_of_the_whole_split() -> None:
    trainer = trained("mlp-batchnorm", 300)
    shown = look(trainer, "batchnorm")
    hidden = trainer.model.embedding.infer(trainer.train.x) @ trainer.model.leaves()[0].weight
    (layer,) = shown.layers
    assert layer.mean.calibrated == pytest.approx(hidden.mean(0).tolist(), abs=1e-4)
    assert layer.std.calibrated == pytest.approx(hidden.std(0).tolist(), rel=1e-4)
    few = look(trainer, "batchnorm", examples=50).layers[0].std.calibrated
    assert few == pytest.approx(hidden[:50].std(0).tolist(), rel=1e-4)
    batch = trainer.model.embedding.infer(present_batch(trainer).x) @ trainer.model.leaves()[0].weight
    assert layer.mean.batch == pytest.approx(batch.mean(0).tolist(), abs=1e-4)
    assert layer.std.batch == pytest.approx(batch.std(0).tolist(), rel=1e-4)
    assert layer.mean.running == pytest.approx(trainer.model.leaves()[1].running_mean.tolist())
    assert shown.losses.running.val == pytest.approx(evaluate(trainer.model, trainer.val))
    # at momentum 0.001 the running statistics have only begun to settle after 300 steps
    assert shown.losses.calibrated.train < shown.losses.running.train


@pytest.mark.parametrize("residual", [False, True])
def test_calibrated_layers_of_a_deep_net_see_calibrated_inputs(residual: bool) -> None:
    trainer = trained("deep-batchnorm", 50, residual=residual)
    net = at_once(calibrate(trainer.model.clone(), trainer.train.x))
    outs = trainer.train.x
    for brick in [net.embedding, *net.layers[:-1]]:
        outs = brick.infer(outs)
    assert net.layers[-1].running_mean.tolist() == pytest.approx(outs.mean(0).tolist(), abs=1e-5)


def test_the_loss_in_minibatches_is_that_of_every_example_once() -> None:
    trainer = trained("mlp-batchnorm", 200)
    shown, total = look(trainer, "batchnorm", examples=3200).losses.batch.train, 0.0
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for batch in torch.randperm(3200, generator=generator).split(32):
            logits = trainer.model.clone()(trainer.train.x[batch])
            total += float(F.cross_entropy(logits, trainer.train.y[batch]))
    assert shown == pytest.approx(total / 2000, abs=0.012)


def test_the_losses_of_batchnorm_are_over_the_same_examples() -> None:
    trainer = trained("mlp-batchnorm", 20)
    over = look(trainer, "batchnorm", examples=100).losses
    trainer.train, trainer.val = (Split(split.x, split.y.clone()) for split in (trainer.train, trainer.val))
    for split in (trainer.train, trainer.val):
        split.y[100:] = 1
    assert look(trainer, "batchnorm", examples=100).losses == over


def test_an_example_moves_with_its_company() -> None:
    trainer = trained("deep-batchnorm", 100)
    company = look(trainer, "batchnorm", example=5).company
    assert min(company.std) > 0
    alone = F.softmax(trainer.model.infer(trainer.train.x[5:6])[0], 0)
    assert company.alone_probabilities == pytest.approx(alone.tolist(), abs=1e-5)
    assert all(low < high for low, high in zip(company.low, company.high, strict=True))
    assert len(company.symbols) == len(company.std)


def test_batchnorm_takes_the_scale_out_both_ways() -> None:
    table = look(trained("deep-tanh", 1), "batchnorm", scale=3.0).spread.table
    chosen = next(row for row in table if row.chosen)
    assert chosen.linear.forward == pytest.approx(3.0, rel=0.1)
    assert chosen.linear.backward == pytest.approx(3.0, rel=0.1)
    assert all(row.batchnorm.forward == pytest.approx(1.0, rel=0.05) for row in table)
    assert all(row.batchnorm.backward == pytest.approx(1.0, abs=0.01) for row in table)


# --- gain


def test_gains_through_fifty_layers() -> None:
    shown = look(trained("deep-tanh", 1), "gain", depth=50)
    table = {round(row.gain, 2): row for row in shown.gains}
    assert table[1.67].recommended
    assert table[1.67].own
    assert [table[gain].std[-1] for gain in (1.0, 1.67, 3.0)] == pytest.approx([0.10, 0.65, 0.84], abs=0.03)
    assert [table[gain].saturated[-1] for gain in (1.0, 1.67, 3.0)] == pytest.approx([0.0, 0.05, 0.40], abs=0.02)
    assert all(len(row.std) == 50 for row in shown.gains)


def test_the_recommended_gain_of_relu() -> None:
    shown = look(trained("deep-tanh", 1, nonlinearity="relu", gain=1.1, n_layer=12), "gain")
    assert shown.depth == 12  # the net's own
    assert shown.recommended == pytest.approx(math.sqrt(2))
    assert 1.1 in [row.gain for row in shown.gains]
