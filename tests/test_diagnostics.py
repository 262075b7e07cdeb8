"""Every number of a probe against the plain torch expression for it, on healthy nets and on nets that are no more."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from makemore_core import diagnostics
from makemore_core.config import Config, Value
from makemore_core.dataset import Dataset
from makemore_core.diagnostics import DeadUnits, Probe, bounds
from makemore_core.engine import Taps
from makemore_core.layers import Linear, Nonlinearity
from makemore_core.snapshot import BINS, Histogram, Layer, Snapshot, Weight, from_json, to_json
from makemore_core.trainer import Trainer

OPTIMIZERS = ["sgd", "momentum", "rmsprop", "adam", "adamw"]


def watched(dataset: Dataset, steps: int = 5, **changes: Value) -> Trainer:
    settings: dict[str, Value] = {"n_layer": 3, "n_hidden": 20, "engine": "plain"}
    trainer = Trainer(Config().replace(settings | changes), dataset)
    trainer.advance(steps, tap=True)
    return trainer


def poisoned(dataset: Dataset, value: float, **changes: Value) -> Trainer:
    """A net in which one number went wrong, one update ago."""
    trainer = watched(dataset, **changes)
    linear = next(leaf for leaf in trainer.model.leaves() if isinstance(leaf, Linear))
    linear.weight[0, 0] = value
    trainer.advance(1, tap=True)
    return trainer


def near(number: torch.Tensor | float) -> object:
    return pytest.approx(float(number), rel=1e-5, abs=1e-9, nan_ok=True)


def histogram(x: torch.Tensor, low: float, high: float) -> Histogram:
    """Counted one by one; NaN nowhere, what is outside in the edge bins."""
    counts = [0] * BINS
    for number in x.flatten().tolist():
        if not math.isnan(number):
            place = (number - low) / (high - low) * BINS
            counts[max(0, min(BINS - 1, int(max(-1.0, min(place, BINS + 1.0)))))] += 1
    return Histogram(low, high, tuple(counts))


def assert_histogram(mine: Histogram, x: torch.Tensor, low: float, high: float) -> None:
    expected = histogram(x, mine.low, mine.high)
    assert (mine.low, mine.high) == (near(low), near(high))
    assert sum(mine.counts) == sum(expected.counts)
    # a number on the edge between two bins may be rounded into either
    assert sum(abs(a - b) for a, b in zip(mine.counts, expected.counts, strict=True)) <= 2 * 0.005 * x.numel()


def check_layer(layer: Layer, brick: Nonlinearity, taps: Taps, reach: float, gradient_reach: float) -> None:
    out, gradient = taps.outs[layer.index], taps.gradients[layer.index]
    activation = layer.activation
    assert layer.kind == brick.kind
    assert (activation.mean, activation.std) == (near(out.mean()), near(out.std()))
    assert activation.saturated == near(brick.flat(out, 0.97).float().mean())
    assert activation.units == out.shape[1]
    assert (layer.gradient.mean, layer.gradient.std) == (near(gradient.mean()), near(gradient.std()))
    assert_histogram(activation.histogram, out, *(bounds(brick) or (-reach, reach)))
    assert_histogram(layer.gradient.histogram, gradient, -gradient_reach, gradient_reach)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "leaky_relu", "elu", "sigmoid", "identity"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_numbers_of_a_layer(norm: str, nonlinearity: str, few_names: Dataset) -> None:
    """Histograms without bounds of their own share one scale: three standard deviations of the median layer."""
    trainer = watched(few_names, norm=norm, nonlinearity=nonlinearity)
    taps, layers = trainer.engine.taps(), trainer.probe({}).layers
    leaves = trainer.model.leaves()
    indices = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Nonlinearity)]
    assert [layer.index for layer in layers] == indices
    reach = 4 * torch.stack([taps.outs[index].std() for index in indices]).median().item()
    gradient_reach = 4 * torch.stack([taps.gradients[index].std() for index in indices]).median().item()
    for layer in layers:
        brick = leaves[layer.index]
        assert isinstance(brick, Nonlinearity)
        check_layer(layer, brick, taps, reach, gradient_reach)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_numbers_of_a_weight_by_its_real_change(optimizer: str, few_names: Dataset) -> None:
    trainer = watched(few_names, optimizer=optimizer, lr=0.01)
    matrices = [p for p in trainer.model.parameters() if p.ndim == 2]
    before = [p.clone() for p in matrices]
    trainer.advance(1, tap=True)
    weights = trainer.probe({}).weights
    assert [weight.name for weight in weights] == ["C", "0.weight", "3.weight", "6.weight", "9.weight"]
    assert [weight.layer for weight in weights] == [2, 2, 5, 8, None]
    for weight, after, previous in zip(weights, matrices, before, strict=True):
        assert after.grad is not None
        assert weight.shape == tuple(after.shape)
        assert (weight.grad_mean, weight.grad_std) == (near(after.grad.mean()), near(after.grad.std()))
        assert weight.data_std == near(after.std())
        assert weight.grad_data_ratio == near(after.grad.std() / after.std())
        assert weight.update_data_log10 == near(((after - previous).std() / after.std()).log10())


def test_for_plain_sgd_the_update_is_the_lectures(few_names: Dataset) -> None:
    """log10(std(lr * grad) / std(data)): part 3, the last picture."""
    trainer = watched(few_names, optimizer="sgd")
    for weight, after in zip(
        trainer.probe({}).weights, [p for p in trainer.model.parameters() if p.ndim == 2], strict=True
    ):
        assert after.grad is not None
        assert weight.update_data_log10 == pytest.approx(
            ((0.1 * after.grad).std() / after.std()).log10().item(), abs=1e-3
        )


def test_what_is_alike_is_measured_together_and_comes_out_in_order(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    V = few_names.vocabulary  # so that the embedding and the later weights are of one shape, the first weight is not
    trainer = watched(few_names, n_layer=12, n_embd=V, n_hidden=V, block_size=2, nonlinearity="relu")
    whole = trainer.probe({})
    assert [layer.index for layer in whole.layers] == list(range(2, 36, 3))
    assert [weight.shape[0] for weight in whole.weights] == [V, 2 * V] + [V] * 12
    for weight, p in zip(whole.weights, [p for p in trainer.model.parameters() if p.ndim == 2], strict=True):
        assert weight.data_std == near(p.std())
    monkeypatch.setattr(diagnostics, "CACHED", 1)  # one at a time
    alone = trainer.probe({})
    assert [weight.name for weight in alone.weights] == [weight.name for weight in whole.weights]
    for one, other in zip(alone.weights, whole.weights, strict=True):
        assert msgspec.structs.astuple(one)[3:] == pytest.approx(msgspec.structs.astuple(other)[3:])
    for layer, same in zip(alone.layers, whole.layers, strict=True):
        assert (layer.index, layer.gradient.std) == (same.index, pytest.approx(same.gradient.std))
    for column in ("activation", "gradient"):
        scales = [getattr(layer, column).histogram.high for layer in (*alone.layers, *whole.layers)]
        assert scales == pytest.approx([scales[0]] * 24), "one scale for a column"


def test_residual_connections_are_opened_into_rows(few_names: Dataset) -> None:
    trainer = watched(few_names, residual=True)
    taps = trainer.engine.taps()
    for layer in trainer.probe({}).layers:
        assert layer.activation.std == near(taps.outs[layer.index].std())
        assert layer.kind == "Tanh"


@pytest.mark.parametrize("engine", ["plain", "manual"])
@pytest.mark.parametrize("n_layer", [1, 100])
def test_one_layer_and_a_hundred(n_layer: int, engine: str, few_names: Dataset) -> None:
    probe = watched(few_names, steps=1, n_layer=n_layer, n_hidden=10, engine=engine).probe({})
    assert len(probe.layers) == n_layer
    assert len(probe.weights) == n_layer + 2
    assert len(round_trip(probe).layers) == n_layer


def test_the_smallest_net(few_names: Dataset) -> None:
    """Where one number has no spread, that is NaN and nothing worse."""
    probe = watched(few_names, n_layer=1, n_hidden=1, n_embd=1, block_size=1, batch_size=1, norm="none").probe({})
    assert math.isnan(probe.layers[0].activation.std)
    assert round_trip(probe).layers[0].activation.units == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_net_that_is_no_more_is_probed_without_a_word(
    norm: str, nonlinearity: str, value: float, few_names: Dataset
) -> None:
    trainer = poisoned(few_names, value, norm=norm, nonlinearity=nonlinearity)
    trainer.advance(1, tap=True)
    probe = trainer.probe({})
    assert any(not math.isfinite(weight.grad_std) for weight in probe.weights)
    for layer in probe.layers:
        for counted in (layer.activation.histogram, layer.gradient.histogram):
            assert math.isfinite(counted.low)
            assert counted.high > counted.low
            assert 0 <= sum(counted.counts) <= 32 * 20
        assert math.isnan(layer.activation.saturated) == math.isnan(layer.activation.mean)
    round_trip(probe)


def round_trip(probe: Probe) -> Snapshot:
    """What a viewer gets of a probe."""
    snapshot = Snapshot(run="r", state="running", step=1, steps=2, time=0.0, layers=probe.layers, weights=probe.weights)
    again = from_json(to_json(snapshot))
    assert repr(again) == repr(snapshot)
    assert isinstance(again, Snapshot)
    return again


def test_nan_is_counted_nowhere_and_outliers_at_the_edges() -> None:
    x = torch.tensor([math.nan, -math.inf, math.inf, -1.0, 1.0, 5.0, 0.0, 0.999])
    counts = diagnostics._counts(x[None], torch.tensor([[-1.0, 1.0]]))[0].tolist()
    assert (counts[0], counts[-1], counts[BINS // 2]) == (2, 4, 1)
    assert sum(counts) == 7


def test_zero_is_counted_with_the_positive_numbers_on_every_scale_round_it() -> None:
    ends = 10 ** torch.empty(2000, 1).uniform_(-6, 6, generator=torch.Generator().manual_seed(0))
    counts = diagnostics._counts(torch.zeros(2000, 1), torch.cat([-ends, ends], 1))
    assert counts[:, BINS // 2].tolist() == [1.0] * 2000


def test_counts_are_exact_however_many() -> None:
    n = 2**24 + 2
    counts = diagnostics._counts(torch.zeros((1, n)), torch.tensor([[-1.0, 1.0]]))
    assert int(counts[0, BINS // 2]) == n


def test_gradients_that_vanish_still_have_a_spread() -> None:
    """Their squares would be 0 in float32."""
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1e-30], [1.0], [1e30]])
    torch.testing.assert_close(diagnostics.moments(x)[:, 1], x.double().std(1), rtol=1e-6, atol=0.0)


def test_a_scale_is_a_number_of_float32_however_large_the_spread() -> None:
    stds = torch.tensor([[1e-46, 1e-46], [0.5, math.nan], [2e38, 2e38]], dtype=torch.float64)
    assert diagnostics.reach(stds).tolist() == [1.0, 2.0, 1.0]


def test_large_activations_are_measured_without_a_copy_of_all(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps, measured = (trainer := watched(few_names)).engine.taps(), []
    real = diagnostics._counts
    monkeypatch.setattr(diagnostics, "_counts", lambda x, ends: (measured.append(x.data_ptr()), real(x, ends))[1])
    monkeypatch.setattr(diagnostics, "CACHED", 32 * 20)  # the size of one
    trainer.probe({})
    indices = [index for index, _ in diagnostics.rows(trainer.model)]
    assert measured == [of_bricks[index].data_ptr() for of_bricks in (taps.outs, taps.gradients) for index in indices]


def test_a_constant_weight_has_no_ratio(few_names: Dataset) -> None:
    trainer = watched(few_names, lr=1e-6)
    linear = next(leaf for leaf in trainer.model.leaves() if isinstance(leaf, Linear))
    taps = trainer.engine.taps()
    linear.weight.fill_(0.0)
    weight = diagnostics.probe(trainer.model, taps, {}).weights[1]
    assert (weight.data_std, weight.grad_data_ratio, weight.update_data_log10) == (0.0, math.inf, math.inf)
    for gradient in taps.updates:
        gradient.zero_()
    weight = diagnostics.probe(trainer.model, taps, {}).weights[1]
    assert math.isnan(weight.grad_data_ratio)


def test_a_weight_that_did_not_move_is_minus_infinity(few_names: Dataset) -> None:
    trainer = watched(few_names, norm="none", nonlinearity="relu")
    for leaf in trainer.model.leaves():
        if isinstance(leaf, Linear):
            leaf.weight.zero_()
    trainer.advance(1, tap=True)
    weights: tuple[Weight, ...] = trainer.probe({}).weights
    assert weights[0].update_data_log10 == -math.inf


# ---- dead units ----------------------------------------------------------------------------------------------------


def confirmed(trainer: Trainer, size: int = 50) -> DeadUnits:
    dead = DeadUnits(trainer.model)
    for start in range(0, len(trainer.train.x), size):
        dead.look(trainer.train.x[start : start + size])
    return dead


def first(trainer: Trainer, kind: type) -> object:
    return next(leaf for leaf in trainer.model.leaves() if isinstance(leaf, kind))


@pytest.mark.parametrize(("nonlinearity", "drive"), [("tanh", 9.0), ("tanh", -9.0), ("relu", -9.0), ("sigmoid", 99.0)])
def test_units_that_are_flat_for_every_example_are_dead(nonlinearity: str, drive: float, few_names: Dataset) -> None:
    trainer = watched(few_names, steps=1, norm="none", nonlinearity=nonlinearity)
    linear = first(trainer, Linear)
    assert isinstance(linear, Linear)
    assert linear.bias is not None
    linear.weight[:, [3, 7]] = 0.0
    linear.bias[[3, 7]] = drive
    dead = confirmed(trainer)
    assert dead.counts()[1] == 2
    assert dead.units()[1].nonzero().flatten().tolist() == [3, 7]
    assert trainer.probe(dead.counts()).layers[0].activation.dead == 2


def test_a_unit_that_lives_for_one_example_is_not_dead(few_names: Dataset) -> None:
    trainer = watched(few_names, steps=1, norm="none", nonlinearity="relu", block_size=1, n_embd=4)
    linear, embedding = first(trainer, Linear), trainer.model.embedding
    assert isinstance(linear, Linear)
    assert linear.bias is not None
    linear.weight[:, 3] = 1.0
    linear.bias[3] = 0.0
    embedding.weight.fill_(-1.0)  # off for every character
    assert confirmed(trainer).units()[1][3]
    embedding.weight[few_names.alphabet.index("z") + 1] = 1.0  # but one
    assert not confirmed(trainer).units()[1][3]


def test_an_all_dead_layer_and_what_is_behind_it(few_names: Dataset) -> None:
    trainer = watched(few_names, steps=1, norm="none", nonlinearity="relu")
    linear = first(trainer, Linear)
    assert isinstance(linear, Linear)
    assert linear.bias is not None
    linear.weight.zero_()
    linear.bias.fill_(-1.0)
    dead = confirmed(trainer).counts()
    assert dead[1] == 20
    trainer.advance(1, tap=True)
    layer = trainer.probe(dead).layers[0]
    assert (layer.activation.std, layer.activation.saturated, layer.activation.dead) == (0.0, 1.0, 20)
    assert trainer.probe(dead).weights[0].grad_std == 0.0


@pytest.mark.parametrize("nonlinearity", ["leaky_relu", "identity"])
def test_what_is_never_flat_never_dies(nonlinearity: str, few_names: Dataset) -> None:
    trainer = watched(few_names, steps=1, norm="none", nonlinearity=nonlinearity)
    assert set(confirmed(trainer).counts().values()) == {0}


@pytest.mark.parametrize("residual", [False, True])
def test_looking_for_dead_units_is_evaluation(residual: bool, few_names: Dataset) -> None:
    trainer = watched(few_names, residual=residual)
    dead = DeadUnits(trainer.model)
    assert torch.equal(dead.look(trainer.val.x), trainer.model.infer(trainer.val.x))
    assert list(dead.counts()) == [layer.index for layer in trainer.probe({}).layers]


def test_before_a_check_nothing_is_said_of_dead_units(few_names: Dataset) -> None:
    assert {layer.activation.dead for layer in watched(few_names).probe({}).layers} == {None}
