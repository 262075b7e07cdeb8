"""The doctor is quiet on healthy presets, right on each broken one, and needs nothing but snapshots."""

from __future__ import annotations

import functools
import math
import subprocess
import sys

import msgspec
import pytest

from makemore_core import dataset, doctor, model
from makemore_core.config import Config, Value
from makemore_core.diagnostics import DeadUnits
from makemore_core.doctor import GAINS, Finding, findings
from makemore_core.model import evaluate
from makemore_core.presets import PRESETS
from makemore_core.snapshot import Activation, Gradient, Histogram, Layer, Snapshot, Splits, Weight
from makemore_core.trainer import Trainer


@functools.cache
def names() -> dataset.Dataset:
    """An eighth of the embedded names, so that whole splits are cheap to look at."""
    whole = dataset.read()
    return whole._replace(train=whole.train[::8], val=whole.val[::8])


@functools.cache
def train(config: Config, stops: tuple[int, ...]) -> list[Snapshot]:
    """A run as a record would hold it: a snapshot at each stop, dead units and losses of splits at the last."""
    trainer = Trainer(config.replace({"engine": "plain"}), names())
    snapshots: list[Snapshot] = []
    first: float | None = None
    for stop in stops:
        losses = trainer.advance(stop - trainer.step, tap=True)
        first = losses[0] if first is None else first
        dead, splits = {}, None
        if stop == stops[-1] and config.n_layer < 10:  # a whole split through fifty layers takes its time
            look = DeadUnits(trainer.model)
            look.look(trainer.train.x)
            dead, recent = look.counts(), losses[-500:]
            whole = [evaluate(trainer.model, split) for split in (trainer.train, trainer.val)]
            splits = Splits(*whole, None, trainer.step, sum(recent) / len(recent))
        seen = trainer.probe(dead)
        snapshots.append(
            Snapshot(
                run="r", state="running", step=trainer.step, steps=config.steps, time=0.0, loss=losses[-1],
                first_loss=first, losses=tuple(losses), expected_loss=math.log(27), lr=config.lr_at(trainer.step),
                config=config.as_dict(), layers=seen.layers, weights=seen.weights, splits=splits,
            )
        )  # fmt: skip
    return snapshots


def diagnose(config: Config, stops: tuple[int, ...] = (1, 60, 120)) -> dict[str, Finding]:
    *recent, last = train(config, stops)
    return {finding.name: finding for finding in findings(last, recent)}


# What the doctor has to say of each preset, and what it may say besides.
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "mlp-original": ({"confidently-wrong", "saturated"}, {"updates-large"}),
    "mlp-softmax": ({"saturated"}, set()),
    "mlp-tanh": (set(), set()),
    "mlp-kaiming": (set(), set()),
    "mlp-batchnorm": (set(), set()),
    "deep-tanh": (set(), set()),
    "deep-tanh-gain1": ({"activations-shrink"}, set()),
    "deep-tanh-gain3": ({"saturated", "gradients-grow"}, set()),
    "deep-tanh-gain05": ({"activations-shrink", "gradients-shrink"}, set()),
    "deep-linear": ({"diverged", "activations-grow", "gradients-grow"}, {"confidently-wrong"}),
    "deep-linear-gain1": (set(), set()),
    "deep-no-fanin": ({"saturated", "gradients-grow", "updates-large"}, set()),
    "deep-slow": ({"updates-small"}, set()),
    "deep-batchnorm": (set(), set()),
    "deep-batchnorm-gain02": ({"updates-large"}, set()),
    "deep-batchnorm-no-fanin": ({"updates-small"}, set()),
    "deep-batchnorm-no-fanin-lr1": (set(), set()),
    "deep-batchnorm-after": (set(), set()),
    "fifty-layers-gain1": ({"activations-shrink"}, {"gradients-shrink"}),
    "fifty-layers": ({"gradients-grow"}, set()),
    "fifty-layers-batchnorm": ({"gradients-grow"}, set()),
    "fifty-layers-residual": (set(), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name: str) -> None:
    must, may = EXPECTED[name]
    found = diagnose(PRESETS[name].config(), (1, 10) if name.startswith("fifty") else (1, 60, 120))
    assert must <= set(found) <= must | may, {key: f.evidence for key, f in found.items()}


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("mlp-original", "confidently-wrong"),
        ("mlp-original", "saturated"),
        ("mlp-softmax", "saturated"),
        ("deep-tanh-gain1", "activations-shrink"),
        ("deep-tanh-gain3", "gradients-grow"),
        ("deep-linear", "diverged"),
        ("deep-no-fanin", "saturated"),
        ("deep-slow", "updates-small"),
        ("deep-batchnorm-gain02", "updates-large"),
        ("deep-batchnorm-no-fanin", "updates-small"),
    ],
)
def test_what_it_suggests_helps(name: str, finding: str) -> None:
    config = PRESETS[name].config()
    fix = diagnose(config)[finding].fix
    assert fix
    assert finding not in diagnose(config.replace(fix))


@pytest.mark.filterwarnings("ignore:var")
def test_settings_that_batchnorm_cannot_bear() -> None:
    healthy = PRESETS["deep-batchnorm"].config()
    assert set(diagnose(healthy.replace({"batch_size": 1}), (1, 2))) == {"batch-of-one"}  # no rate helps
    assert set(diagnose(healthy.replace({"bias": "on"}), (1, 2))) == {"bias-useless"}
    assert "running-statistics" in diagnose(healthy.replace({"batch_size": 4}), (1, 2))
    assert set(diagnose(healthy.replace({"norm_momentum": 1.0}), (1, 2))) == {"running-statistics"}


def test_a_learning_rate_of_a_hundred() -> None:
    found = diagnose(PRESETS["deep-tanh"].config().replace({"lr": 100.0}), (1, 60, 120))
    assert found["diverged"].fix == {"lr": 0.1}


def test_relu_units_that_never_fire() -> None:
    config = PRESETS["mlp-kaiming"].config().replace({"nonlinearity": "relu", "lr": 2.0})
    found = diagnose(config, (1, 40))
    assert "whole training split" in found["dead-units"].evidence


NOTHING = Histogram(-1.0, 1.0, (0,) * 40)


def foreign(step: int = 6000, **changes: object) -> Snapshot:
    """A snapshot of somebody else's net: no configuration, kinds and names we never heard of."""
    layers = tuple(
        Layer(i, "Mish", Activation(0.0, 0.6, 0.1, 64, None, NOTHING), Gradient(0.0, 1e-3, NOTHING)) for i in range(4)
    )
    weights = tuple(Weight(f"w{i}", (64, 64), i if i < 4 else None, 0.0, 1e-3, 0.1, 1e-2, -3.0) for i in range(5))
    plain = Snapshot(run="r", state="running", step=step, steps=10**6, time=0.0, layers=layers, weights=weights)
    return msgspec.structs.replace(plain, **changes)


def with_layer(snapshot: Snapshot, index: int, **activation: object) -> Snapshot:
    layers = list(snapshot.layers)
    changed = msgspec.structs.replace(layers[index].activation, **activation)
    layers[index] = msgspec.structs.replace(layers[index], activation=changed)
    return msgspec.structs.replace(snapshot, layers=tuple(layers))


def with_stds(*stds: float, **changes: object) -> Snapshot:
    snapshot = foreign(**changes)  # type: ignore[arg-type]
    for index, std in enumerate(stds):
        snapshot = with_layer(snapshot, index, std=std)
    return snapshot


def with_update(snapshot: Snapshot, index: int, ratio: float) -> Snapshot:
    weights = list(snapshot.weights)
    weights[index] = msgspec.structs.replace(weights[index], update_data_log10=ratio)
    return msgspec.structs.replace(snapshot, weights=tuple(weights))


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (foreign(), set()),
        (foreign(step=0, layers=(), weights=()), set()),
        (foreign(state="diverged", loss=math.inf), {"diverged"}),
        (foreign(loss=math.nan, losses=(math.nan,)), {"diverged"}),
        (foreign(losses=(9.0,), first_loss=3.3, expected_loss=3.3), {"diverged"}),
        (foreign(losses=(3.29,), first_loss=3.3, expected_loss=3.3), {"loss-flat"}),
        (foreign(losses=(2.1,), first_loss=3.3, expected_loss=3.3), set()),
        (foreign(losses=(3.4,) * 1200, first_loss=27.0, expected_loss=3.3), {"confidently-wrong", "loss-flat"}),
        (foreign(splits=Splits(2.0, 2.2, None, 90)), set()),
        (foreign(splits=Splits(0.3, 8.7, None, 90)), {"overfitting"}),
        (with_layer(foreign(), 2, dead=3), {"dead-units"}),
        (with_layer(foreign(), 2, dead=0), set()),
        (with_layer(foreign(), 1, saturated=0.8), {"saturated"}),
        (with_layer(foreign(), 1, mean=math.nan, std=math.nan), {"diverged"}),
        (with_stds(0.6, 0.4, 0.2, 0.1), {"activations-shrink"}),
        (with_stds(0.6, 1.0, 2.0, 3.0), {"activations-grow"}),
        (with_stds(0.98, 0.98, 0.98, 0.28), set()),
        (with_stds(0.2, 0.9, 0.9, 0.9), set()),
        (with_update(foreign(), 4, -1.5), {"last-layer-fast"}),
        (with_update(foreign(step=2000), 4, -1.5), set()),
        (with_update(foreign(), 1, -1.5), {"updates-large"}),
        (with_update(foreign(), 1, -4.5), {"updates-small"}),
        (with_update(with_update(with_update(foreign(), 0, -3.6), 1, -3.6), 2, -3.6), {"updates-small"}),
        (with_update(foreign(), 1, -3.6), set()),
        (with_update(foreign(), 1, -math.inf), set()),
    ],
)
def test_any_net_can_be_examined(snapshot: Snapshot, expected: set[str]) -> None:
    found = findings(snapshot)
    assert {finding.name for finding in found} == expected
    assert all(finding.fix is None and finding.suggestion and finding.evidence for finding in found)


@pytest.mark.parametrize(("momentum", "batch"), [(0.1, 0), (0.1, -3), (2.0, 32), (-1.0, 32), (float("nan"), 32)])
def test_settings_that_make_no_sense_are_no_finding(momentum: float, batch: int) -> None:
    config: dict[str, Value] = {"norm": "batch", "norm_momentum": momentum, "batch_size": batch}
    assert findings(foreign(config=config)) == ()


def test_how_much_faster_the_last_layer_learns_is_told() -> None:
    (found,) = findings(with_update(foreign(), 4, -1.0))
    others = max(weight.update_data_log10 for weight in foreign().weights[:-1])
    assert found.what == f"the last layer learns {10 ** (-1.0 - others):.0f} times as fast"


def test_half_of_all_relus_are_off_in_a_healthy_net() -> None:
    snapshot = with_layer(foreign(), 1, saturated=0.6)
    relu = msgspec.structs.replace(snapshot.layers[1], kind="ReLU")
    layers = (snapshot.layers[0], relu, *snapshot.layers[2:])
    assert findings(msgspec.structs.replace(snapshot, layers=layers)) == ()


def test_small_updates_are_meant_once_the_rate_has_decayed() -> None:
    config = Config(lr=0.1).as_dict()
    weights = tuple(msgspec.structs.replace(weight, update_data_log10=-4.4) for weight in foreign().weights)
    early = foreign(config=config, weights=weights, lr=0.1)
    assert {finding.name for finding in findings(early)} == {"updates-small"}
    assert findings(msgspec.structs.replace(early, lr=0.01)) == ()


def test_a_past_that_was_another_net_is_no_evidence() -> None:
    past = with_stds(0.6, 0.2, 0.05, 0.01, step=1, config={"gain": 0.5})
    assert findings(foreign(config={"gain": 1.0}), [past]) == ()
    assert [f.name for f in findings(foreign(config={"gain": 0.5}), [past])] == ["activations-shrink"]
    assert findings(foreign(config={"gain": 0.5}, attempt=1), [past]) == ()


def test_a_live_change_is_not_judged_by_the_layers_of_the_net_before() -> None:
    chart = doctor.Chart()
    chart.see(with_layer(foreign(step=1, layers_step=1, config={"gain": 3.0}), 1, saturated=0.9))
    chart.see(foreign(step=1, layers=(), weights=(), config={"gain": 1.0}))
    chart.see(foreign(step=2, layers_step=2, config={"gain": 1.0}))
    assert chart.findings() == ()


def test_one_number_has_no_std_and_is_no_divergence() -> None:
    assert findings(with_layer(foreign(), 1, std=math.nan)) == ()
    (finding,) = findings(with_layer(foreign(), 1, mean=math.nan, std=math.nan))
    assert finding.name == "diverged"


@pytest.mark.parametrize(("lr", "advised"), [(0.1, 1.0), (0.001, 0.1), (2.0, None)])
def test_nobody_is_led_to_a_learning_rate_beyond_1(lr: float, advised: float | None) -> None:
    weights = tuple(msgspec.structs.replace(weight, update_data_log10=-5.4) for weight in foreign().weights)
    (finding,) = findings(foreign(config=Config(lr=lr, gain=1.0).as_dict(), weights=weights, lr=lr))
    assert (finding.name, finding.fix) == ("updates-small", None if advised is None else {"lr": advised})


def test_the_gains_are_pytorchs() -> None:
    for name, gain in GAINS.items():
        assert gain == pytest.approx(model.gain(Config().replace({"nonlinearity": name, "gain": "auto"})))


def test_no_torch_is_needed() -> None:
    code = f"import sys, {doctor.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_chart_takes_layers_that_a_record_leaves_out_from_the_snapshot_before() -> None:
    whole, short = doctor.Chart(), doctor.Chart()
    for snapshot in train(PRESETS["deep-tanh-gain3"].config(), (1, 60, 120)):
        whole.see(snapshot)
        short.see(snapshot)
    short.see(msgspec.structs.replace(snapshot, layers=(), weights=(), losses=()))
    assert whole.findings() == short.findings() != ()


def test_a_chart_remembers_how_the_run_began() -> None:
    chart = doctor.Chart()
    assert chart.findings() == ()
    *past, _ = train(PRESETS["deep-tanh-gain1"].config(), (1, 60, 120))
    for snapshot in past:
        chart.see(snapshot)
    later = msgspec.structs.replace(past[-1], step=60, losses=())
    for step in range(100, 20_000, 100):  # long after, the spread has recovered by training
        layers = tuple(msgspec.structs.replace(row, activation=past[0].layers[0].activation) for row in later.layers)
        chart.see(msgspec.structs.replace(later, step=step, layers=layers, losses=(2.5,) * 100))
    (finding,) = [finding for finding in chart.findings() if finding.name == "activations-shrink"]
    assert finding.evidence.endswith("at step 1, 0.62 → 0.62 now")
    assert (finding.what, finding.past) == ("at the start the spread shrinks with depth", True)
    chart.see(msgspec.structs.replace(later, attempt=1, step=0, layers=(), weights=()))
    assert chart.findings() == ()
    chart.see(msgspec.structs.replace(later, attempt=2, origin=0, step=20_000, layers=layers, losses=()))
    assert finding in chart.findings()


def with_gradients(*stds: float, **changes: object) -> Snapshot:
    snapshot = foreign(**changes)  # type: ignore[arg-type]
    pairs = zip(snapshot.layers, stds, strict=True)
    layers = (msgspec.structs.replace(a, gradient=msgspec.structs.replace(a.gradient, std=b)) for a, b in pairs)
    return msgspec.structs.replace(snapshot, layers=tuple(layers))


def test_what_is_sick_the_other_way_now_is_told_before_the_start() -> None:
    then, now = with_gradients(1e-1, 1e-2, 1e-3, 1e-4, step=1), with_gradients(1e-7, 1e-6, 1e-5, 1e-4)
    assert [(found.name, found.past) for found in findings(now, [then])] == [
        ("gradients-shrink", False),
        ("gradients-grow", True),
    ]


def test_a_layer_that_began_saturated_is_judged_as_strictly_later() -> None:
    then = with_layer(foreign(step=1), 1, saturated=0.6)
    (still,) = findings(with_layer(foreign(), 1, saturated=0.4), [then])
    assert (still.evidence, still.past) == ("40 % of layer 1 Mish beyond 0.97", False)
    (over,) = findings(with_layer(with_layer(foreign(), 0, saturated=0.4), 1, saturated=0.2), [then])
    assert over.what == "at the start the nonlinearity is saturated"
    assert (over.evidence, over.past) == ("60 % of layer 1 Mish beyond 0.97, at step 1, 20 % now", True)


def test_noise_round_a_limit_makes_no_finding_come_and_go() -> None:
    for usual, sick in ((0.73, False), (0.77, True)):
        chart, found = doctor.Chart(), []
        for at in range(40):
            noise = 0.02 * ((2, -1, 0, 1, -2)[at % 5])
            chart.see(with_layer(foreign(step=6000 + 100 * at), 1, saturated=usual + noise))
            found.append(bool(chart.findings()))
        assert found[3:] == [sick] * 37


def test_what_was_before_a_change_is_no_part_of_the_median() -> None:
    before = [with_layer(foreign(step=5000 + at, config={"lr": 1.0}), 1, saturated=0.9) for at in range(9)]
    assert findings(foreign(config={"lr": 0.1}), before) == ()


def test_a_past_that_comes_after_the_present() -> None:
    past, now = with_stds(0.6, 0.2, 0.05, 0.01, step=1), foreign()
    chart = doctor.Chart()
    for snapshot in (now, past, now):
        chart.see(snapshot)
    assert [finding.name for finding in chart.findings()] == ["activations-shrink"]


def test_a_last_snapshot_that_comes_twice_hides_no_losses() -> None:
    losses = tuple(3.3 - 0.001 * i for i in range(999))
    first = foreign(step=1, losses=(3.3,), first_loss=3.3, expected_loss=3.3)
    last = foreign(step=1000, losses=losses, first_loss=3.3, expected_loss=3.3)
    assert findings(msgspec.structs.replace(last, losses=()), [first, last]) == ()


def test_weights_that_move_unevenly_are_no_matter_of_the_rate() -> None:
    uneven = foreign(config=PRESETS["fifty-layers"].config().as_dict(), lr=0.1)
    for index, ratio in enumerate((-6.0, -5.5, -5.0, -2.8)):
        uneven = with_update(uneven, index, ratio)
    (finding,) = findings(uneven)
    assert (finding.name, finding.fix) == ("updates-small", {"norm": "batch", "norm_output": True})


def test_what_is_as_it_is_advised_to_be_is_no_change() -> None:
    for on in (False, True):
        config = Config(norm="none", norm_output=on, gain=5 / 3).as_dict()
        (finding,) = findings(msgspec.structs.replace(with_layer(foreign(), 1, saturated=0.8), config=config))
        assert finding.fix == ({"norm": "batch"} if on else {"norm": "batch", "norm_output": True})


def test_a_net_that_has_batchnorm_is_not_told_to_have_it() -> None:
    config = Config(norm="batch", gain=1.0, lr=50.0).as_dict()
    (finding,) = findings(msgspec.structs.replace(with_layer(foreign(), 1, saturated=0.8), config=config))
    assert finding.suggestion == "it was trained into this: lr 50 → 0.1 delays it"
    assert finding.fix == {"lr": 0.1}
    (finding,) = findings(with_stds(0.6, 0.4, 0.2, 0.1, config={**config, "residual": True}))
    assert "put a normalisation" not in finding.suggestion
