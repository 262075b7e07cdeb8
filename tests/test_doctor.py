"""The doctor is quiet on healthy presets, right on each broken one, and needs nothing but snapshots."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pytest

from makemore_core import dataset, doctor, model
from makemore_core.config import Config, Value
from makemore_core.diagnostics import DeadUnits
from makemore_core.doctor import GAINS, Check, Finding, examine
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


def findings(snapshot: Snapshot, recent: Sequence[Snapshot] = ()) -> tuple[Finding, ...]:
    return examine(snapshot, recent).findings


def checks(snapshot: Snapshot, recent: Sequence[Snapshot] = ()) -> dict[str, Check]:
    return {check.name: check for check in examine(snapshot, recent).checks}


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
    assert set(diagnose(healthy.replace({"batch_size": 1}), (1, 2))) == {"tiny-batch"}  # no rate helps
    assert diagnose(healthy.replace({"batch_size": 2}), (1, 2))["tiny-batch"].fix == {"batch_size": 32}
    assert set(diagnose(healthy.replace({"bias": "on"}), (1, 2))) == {"bias-useless"}
    assert "running-statistics" in diagnose(healthy.replace({"batch_size": 4}), (1, 2))
    assert set(diagnose(healthy.replace({"norm_momentum": 1.0}), (1, 2))) == {"running-statistics"}
    frozen = foreign(config=Config(norm_momentum=0.0).as_dict(), splits=Splits(2.99, None, None, 90, 2.32))
    assert [found.fix for found in findings(frozen)] == [{"norm_momentum": 0.1}]


def test_a_learning_rate_of_a_hundred() -> None:
    found = diagnose(PRESETS["deep-tanh"].config().replace({"lr": 100.0}), (1, 60, 120))
    assert found["diverged"].fix == {"lr": 0.1}


def test_what_else_is_tried_of_a_net_that_its_rate_ruined_is_tried_at_a_rate_that_does_not() -> None:
    found = diagnose(PRESETS["deep-tanh-gain3"].config().replace({"lr": 100.0}), (1, 60, 120))
    others = [one for name, one in found.items() if name != "diverged" and one.fix]
    assert others
    for one in others:
        assert one.fix is not None
        assert len(one.fix) > 1
        assert one.fix["lr"] == 0.1
        assert one.suggestion.endswith("; with lr 0.1")


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


def with_all_updates(snapshot: Snapshot, ratio: float) -> Snapshot:
    return functools.reduce(lambda net, index: with_update(net, index, ratio), range(len(snapshot.weights)), snapshot)


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (foreign(), set()),
        (with_layer(foreign(), 2, std=0.0), {"no-signal"}),
        (with_all_updates(foreign(), -math.inf), {"updates-small"}),
        (foreign(step=0, layers=(), weights=()), set()),
        (foreign(state="diverged", loss=math.inf), {"diverged"}),
        (foreign(loss=math.nan, losses=(math.nan,)), {"diverged"}),
        (foreign(losses=(9.0,), first_loss=3.3, expected_loss=3.3), {"diverged"}),
        (foreign(losses=(3.29,), first_loss=3.3, expected_loss=3.3), {"loss-flat"}),
        (foreign(losses=(2.1,), first_loss=3.3, expected_loss=3.3), set()),
        (foreign(losses=(3.4,) * 1200, first_loss=27.0, expected_loss=3.3), {"confidently-wrong", "loss-flat"}),
        (foreign(splits=Splits(2.0, 2.2, None, 90)), set()),
        (foreign(splits=Splits(0.3, 8.7, None, 90)), {"overfitting"}),
        (with_all_updates(foreign(splits=Splits(0.3, 8.7, None, 90)), -4.5), {"overfitting"}),  # nothing left to learn
        (with_layer(foreign(), 2, dead=3), {"dead-units"}),
        (with_layer(foreign(), 2, dead=0), set()),
        (with_layer(foreign(), 1, saturated=0.8), {"saturated"}),
        (with_layer(foreign(), 1, mean=math.nan, std=math.nan), {"diverged"}),
        (with_stds(0.6, 0.4, 0.2, 0.1), {"activations-shrink"}),
        (with_stds(0.6, 1.0, 2.0, 3.0), {"activations-grow"}),
        (with_stds(0.98, 0.98, 0.98, 0.28), set()),
        (with_stds(0.2, 0.9, 0.9, 0.9), set()),
        (with_update(foreign(), 4, -1.5), {"last-layer-fast"}),
        (with_update(with_all_updates(foreign(), -4.5), 4, -2.5), {"updates-small"}),  # which is too fast for nothing
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
    assert found.what == f"last layer {10 ** (-1.0 - others):.0f}× too fast"


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
    lowered = msgspec.structs.replace(early, lr=0.01)
    assert findings(lowered) == ()
    limit = {check.name: check.limit for check in examine(lowered).checks}["update:data"]
    assert limit == "-1.75 at most, lr fell"


def test_what_is_tried_of_a_run_that_is_over_is_tried_on_a_new_net() -> None:
    small = with_all_updates(foreign(config=Config(lr=0.1).as_dict()), -4.4)
    for state, fresh in (("running", False), ("finished", True)):
        (found,) = findings(msgspec.structs.replace(small, state=state))
        assert (found.fix is not None, found.fresh) == (True, fresh)


def test_updates_before_the_rate_fell_are_no_evidence_after_it() -> None:
    config = Config(lr=0.1, lr_decay_at=1000).as_dict()
    large = [with_all_updates(foreign(step=at, lr=0.1, config=config), -1.5) for at in (996, 997, 998, 999)]
    assert {finding.name for finding in findings(large[-1], large[:-1])} == {"updates-large"}
    lowered = with_all_updates(foreign(step=1001, lr=0.01, config=config), -2.5)
    assert findings(lowered, large) == ()


@pytest.mark.parametrize(("lr", "ratio"), [(0.0001, -5.8), (1.0, -1.2)])
def test_a_rate_that_was_changed_a_moment_ago_is_not_judged_by_the_update_before(lr: float, ratio: float) -> None:
    """Which a snapshot after the change still shows: the same advice once more would be ten times too much."""
    now = with_all_updates(foreign(step=500, layers_step=500, lr=lr, config=Config(lr=lr).as_dict()), ratio)
    (finding,) = findings(now)
    assert finding.fix is not None
    taken = {"lr": finding.fix["lr"], "config": now.config | finding.fix, "attempt": 1, "origin": 0}
    after = msgspec.structs.replace(now, changed_at=500, **taken)
    assert [found.name for found in findings(after, [now])] == []
    seen = with_all_updates(msgspec.structs.replace(after, step=501, layers_step=501), ratio)
    assert [found.name for found in findings(seen, [now, after])] == [finding.name]


@pytest.mark.parametrize(("before", "came_so"), [(400.0, True), (2.5, False)])
def test_a_net_that_was_ruined_before_its_rate_was_lowered_is_to_be_left(before: float, came_so: bool) -> None:
    config = Config(norm="none").as_dict()
    came = foreign(step=900, attempt=2, origin=1, changed_at=900, first_loss=3.3, smoothed_loss=before, config=config)
    chart = doctor.Chart()

    def see(attempt: int, origin: int, first: int, last: int) -> None:
        for at in range(first, last):
            losses = (400.0,) if at > 900 else ()
            now = msgspec.structs.replace(came, step=at, layers_step=at, losses=losses, attempt=attempt, origin=origin)
            chart.see(now)

    def told() -> tuple[bool, bool]:
        (finding,) = chart.examine().findings
        assert finding.what == "loss above its start"
        return finding.fix is None, "go back" in finding.suggestion

    see(2, 1, 900, 900 + 2 * doctor.RECENT_SNAPSHOTS)  # however long ago that was
    assert told() == (came_so, came_so)
    chart.see(foreign(step=900, attempt=3, origin=1, config=config))  # back
    assert not chart.examine().findings
    see(4, 2, 1000, 1010)  # forth
    assert told() == (came_so, came_so)
    see(2, 1, 950, 960)  # the run goes on from a checkpoint
    assert told() == (came_so, came_so)


def test_where_nothing_is_left_to_learn_small_updates_and_gradients_are_no_fault() -> None:
    slow = with_all_updates(foreign(loss=2.5), -4.5)
    assert {finding.name for finding in findings(slow)} == {"updates-small"}
    assert findings(msgspec.structs.replace(slow, loss=0.01)) == ()


def test_large_hidden_biases_are_named_where_they_saturate() -> None:
    config = PRESETS["mlp-kaiming"].config().replace({"bias_init": 10.0})
    saturated = diagnose(config, (1,))["saturated"]
    assert (saturated.suggestion, saturated.fix) == ("hidden biases 0 at the start", {"bias_init": 0.0})


def test_a_rate_beyond_all_measure_is_the_first_to_be_changed_whatever_else_is_wrong() -> None:
    config = PRESETS["deep-tanh"].config().replace({"nonlinearity": "relu", "lr": 4.0})
    assert diagnose(config, (1, 60, 120))["diverged"].fix == {"lr": 0.1}


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
    assert chart.examine().findings == ()


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
    assert whole.examine().findings == short.examine().findings != ()


def test_a_chart_remembers_how_the_run_began() -> None:
    chart = doctor.Chart()
    assert chart.examine().findings == ()
    *past, _ = train(PRESETS["deep-tanh-gain1"].config(), (1, 60, 120))
    for snapshot in past:
        chart.see(snapshot)
    later = msgspec.structs.replace(past[-1], step=60, losses=())
    for step in range(100, 20_000, 100):  # long after, the spread has recovered by training
        layers = tuple(msgspec.structs.replace(row, activation=past[0].layers[0].activation) for row in later.layers)
        chart.see(msgspec.structs.replace(later, step=step, layers=layers, losses=(2.5,) * 100))
    (finding,) = [finding for finding in chart.examine().findings if finding.name == "activations-shrink"]
    assert finding.evidence.endswith("at step 1, 0.62 → 0.62 now")
    assert (finding.what, finding.past) == ("began: spread shrinks with depth", True)
    chart.see(msgspec.structs.replace(later, attempt=1, step=0, layers=(), weights=()))
    assert chart.examine().findings == ()
    chart.see(msgspec.structs.replace(later, attempt=2, origin=0, step=20_000, layers=layers, losses=()))
    assert finding in chart.examine().findings
    for attempt, origin in ((0, None), (1, None), (2, 0)):  # as often as the run goes on from a checkpoint
        chart.see(msgspec.structs.replace(later, attempt=attempt, origin=origin, step=20_000, layers=layers, losses=()))
        assert (finding in chart.examine().findings) == (attempt != 1)


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
    assert over.what == "began: nonlinearity saturated"
    assert (over.evidence, over.past) == ("60 % of layer 1 Mish beyond 0.97, at step 1, 20 % now", True)


def test_noise_round_a_limit_makes_no_finding_come_and_go() -> None:
    for usual, sick in ((0.73, False), (0.77, True)):
        chart, found = doctor.Chart(), []
        for at in range(40):
            noise = 0.02 * ((2, -1, 0, 1, -2)[at % 5])
            chart.see(with_layer(foreign(step=6000 + 100 * at), 1, saturated=usual + noise))
            found.append(bool(chart.examine().findings))
        assert found[3:] == [sick] * 37


def test_what_was_before_a_change_is_no_part_of_the_median() -> None:
    before = [with_layer(foreign(step=5000 + at, config={"lr": 1.0}), 1, saturated=0.9) for at in range(9)]
    assert findings(foreign(config={"lr": 0.1}), before) == ()


def test_a_past_that_comes_after_the_present() -> None:
    past, now = with_stds(0.6, 0.2, 0.05, 0.01, step=1), foreign()
    chart = doctor.Chart()
    for snapshot in (now, past, now):
        chart.see(snapshot)
    assert [finding.name for finding in chart.examine().findings] == ["activations-shrink"]


def test_the_losses_of_a_last_snapshot_that_comes_twice_count_once() -> None:
    chart, last = doctor.Chart(), foreign(step=1000, losses=(3.4,) * 999, first_loss=4.0, expected_loss=3.3)
    now = msgspec.structs.replace(last, state="finished")
    for snapshot in (foreign(step=1, losses=(4.0,), first_loss=4.0, expected_loss=3.3), last, now):
        chart.see(snapshot)
    (flat,) = [found for found in chart.examine().findings if found.name == "loss-flat"]
    assert "for 1,000 updates" in flat.evidence


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
    net = with_all_updates(with_layer(foreign(config=config), 1, saturated=0.8), -2.0)
    (finding,) = findings(net)
    assert finding.suggestion == "it was trained into this; lr 50 → 0.1 delays it"
    assert finding.fix == {"lr": 0.1}


def test_the_spread_of_normalised_branches_is_no_trend_of_the_net() -> None:
    config = Config(norm="layer", residual=True).as_dict()
    assert findings(with_stds(0.6, 0.4, 0.2, 0.1, config=config)) == ()
    assert findings(with_gradients(1e-1, 1e-2, 1e-3, 1e-4, config=config)) == ()
    growing = findings(with_stds(0.6, 1.0, 2.0, 3.0, config={**config, "norm": "none"}))
    assert [finding.name for finding in growing] == ["activations-grow"]


def advice(config: Config, net: Snapshot, name: str, past: Sequence[Snapshot] = ()) -> Finding:
    whole = [msgspec.structs.replace(one, config=config.as_dict(), lr=config.lr) for one in (*past, net)]
    (found,) = [found for found in findings(whole[-1], whole[:-1]) if found.name == name]
    return found


PLAIN: dict[str, Value] = {"norm": "none", "norm_output": False, "gain": 5 / 3}


def test_how_a_net_began_and_what_ruined_it_is_mended_by_a_new_one() -> None:
    began = with_stds(0.6, 0.2, 0.05, 0.01, step=1)
    assert advice(Config(), foreign(), "activations-shrink", [began]).fresh
    ruined = with_all_updates(foreign(losses=(111.0,), first_loss=3.3, expected_loss=3.3), -4.5)
    found = advice(Config().replace(PLAIN | {"lr": 10.0}), ruined, "diverged")
    assert (found.fix, found.fresh) == ({"lr": 0.1}, True)
    assert not advice(Config(lr=0.01, gain=1.0), with_all_updates(foreign(), -4.5), "updates-small").fresh


def test_a_few_dead_units_are_noted_and_many_are_treated() -> None:
    config, fast = Config(norm="layer", nonlinearity="relu"), with_all_updates(foreign(), -2.0)
    few, many = (advice(config, with_layer(fast, 2, dead=dead), "dead-units") for dead in (3, 20))
    assert (few.severity, few.fix) == ("warning", None)
    assert (many.severity, many.fix) == ("serious", {"lr": 0.01})
    slow = with_layer(with_all_updates(foreign(), -4.5), 2, dead=20)
    assert advice(config, slow, "dead-units").fix is None
    assert [found.name for found in findings(slow)] == ["updates-small", "dead-units"]


def test_no_advice_takes_another_back() -> None:
    small = with_layer(with_all_updates(foreign(), -2.8), 1, saturated=0.8)  # a tenth of the rate is too small
    assert advice(Config(), small, "saturated").fix is None
    assert advice(Config(last_shrink=0.01), with_update(foreign(), 4, -1.5), "last-layer-fast").fix is None


def test_small_updates_are_never_answered_by_a_lower_rate() -> None:
    plain = Config().replace(PLAIN)
    few = with_update(with_all_updates(foreign(), -2.2), 1, -4.5)
    assert advice(plain.replace({"gain": 0.01}), few, "updates-small").fix == {"gain": 5 / 3}
    slowest = with_all_updates(foreign(), -6.5)
    assert advice(plain.replace({"lr": 0.0001}), slowest, "updates-small").fix == {"lr": 0.01}


def test_a_rate_that_was_lowered_at_once_is_no_schedule() -> None:
    slow = with_all_updates(foreign(config=Config(lr_decay_at=50, lr_decay=0.01).as_dict(), lr=0.001), -4.4)
    assert [found.fix for found in findings(slow)] == [{"lr_decay_at": 0}]


def test_the_updates_of_rmsprop_are_judged_once_its_mean_square_is_one() -> None:
    early = with_all_updates(foreign(step=300), -1.5)
    assert findings(msgspec.structs.replace(early, config=Config(optimizer="rmsprop").as_dict())) == ()
    assert [found.name for found in findings(early)] == ["updates-large"]


def test_a_loss_that_rose_since_gradients_grew_is_no_matter_of_the_rate() -> None:
    risen = foreign(losses=(9.0,), first_loss=3.3, expected_loss=3.3)
    began = with_gradients(1e-1, 1e-2, 1e-3, 1e-4, step=1)
    assert advice(Config(), risen, "diverged", [began]).fix == {"residual": True}


def test_a_first_guess_too_sure_though_the_last_layer_is_small() -> None:
    sure = foreign(step=1, losses=(9.0,), first_loss=9.0, expected_loss=3.3)
    linear = Config().replace(PLAIN | {"nonlinearity": "identity"})
    assert advice(linear, sure, "confidently-wrong").fix == {"gain": 1.0}
    assert advice(linear.replace({"last_shrink": 1.0}), sure, "confidently-wrong").fix == {"last_shrink": 0.1}


def test_a_net_with_small_batches_is_given_layernorm() -> None:
    config = Config().replace(PLAIN | {"batch_size": 4, "bias": "on"})
    fix = advice(config, with_layer(foreign(), 1, saturated=0.8), "saturated").fix
    assert fix == {"norm": "layer", "norm_output": True, "bias": "auto"}


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"gain": 0.0}, {"gain": 1.0}),
        (PLAIN | {"gain": 0.0}, {"gain": 5 / 3}),
        ({"norm": "group", "n_hidden": 10}, {"norm": "layer"}),
        ({"norm": "layer", "n_hidden": 1}, {"norm": "batch"}),
    ],
)
def test_a_layer_that_is_the_same_for_every_example(changes: dict[str, Value], fix: dict[str, Value]) -> None:
    assert advice(Config().replace(changes), with_layer(foreign(), 0, std=0.0), "no-signal").fix == fix


@pytest.mark.parametrize(("optimizer", "fix"), [("adam", {"lr": 0.005}), ("sgd", {"lr": 0.05})])
def test_an_adaptive_optimizer_that_went_wrong_is_given_a_rate_that_suits_it(
    optimizer: str, fix: dict[str, Value]
) -> None:
    config = Config(optimizer=optimizer, lr=0.5)
    ruined = msgspec.structs.replace(foreign(state="diverged", loss=math.nan), lr=0.5)
    assert advice(config, ruined, "diverged").fix == fix
    assert advice(config, with_layer(ruined, 0, std=0.0), "diverged").fix == fix


def test_beside_divergence_nothing_is_said_of_how_it_learns() -> None:
    diverged = msgspec.structs.replace(with_all_updates(foreign(), -6.0), state="diverged", loss=math.nan)
    assert [found.name for found in findings(diverged)] == ["diverged"]


def test_a_rate_that_is_far_too_small_is_raised_before_the_shape_is_changed() -> None:
    shrinking = with_all_updates(with_stds(0.6, 0.4, 0.3, 0.1), -4.5)

    def names(lr: float) -> list[str]:
        return [one.name for one in findings(msgspec.structs.replace(shrinking, lr=lr, config={"lr": lr, "gain": 1.0}))]

    assert names(0.001) == ["updates-small", "activations-shrink"]
    assert names(0.05) == ["activations-shrink", "updates-small"]  # 1.0 would be a leap


def test_a_signal_that_was_lost_in_training_is_a_matter_of_the_rate() -> None:
    config = Config().replace(PLAIN | {"gain": 1.0, "lr": 0.2, "optimizer": "adam"})
    began, lost = foreign(step=1), with_layer(foreign(), 0, std=0.0)
    assert advice(config, lost, "no-signal", [began]).fix == {"lr": 0.005}
    assert advice(config, lost, "no-signal").fix == {"gain": 5 / 3}


def test_weights_that_were_never_divided_come_before_the_rate() -> None:
    config = Config().replace(PLAIN | {"fan_in": "off", "last_shrink": 1.0})
    ruined = foreign(state="diverged", loss=math.nan, first_loss=40.0, expected_loss=3.3)
    assert advice(config, ruined, "diverged").fix == {"fan_in": "on"}


def test_a_flat_loss_is_given_the_rate_that_small_updates_are() -> None:
    slow = with_all_updates(foreign(lr=0.001, losses=(3.29,), first_loss=3.3, expected_loss=3.3), -5.0)
    config = Config(lr=0.001)
    assert advice(config, slow, "loss-flat").fix == advice(config, slow, "updates-small").fix == {"lr": 0.1}


def test_gradients_that_grow_through_a_great_depth_are_not_answered_by_what_makes_them_grow_more() -> None:
    """A larger gain does, and so does BatchNorm alone."""
    alone = diagnose(PRESETS["fifty-layers"].config(), (1,))["gradients-grow"]
    assert alone.fix == {"norm": "batch", "norm_output": True, "residual": True}
    assert diagnose(PRESETS["fifty-layers-batchnorm"].config(), (1,))["gradients-grow"].fix == {"residual": True}


def test_every_title_fits_the_column_of_the_dashboard() -> None:
    shown = [
        found for name in PRESETS if not name.startswith("fifty") for found in diagnose(PRESETS[name].config()).values()
    ]
    assert max(len(found.what.removeprefix("began: ")) for found in shown) <= 25


def test_what_is_not_judged_yet_is_told_apart() -> None:
    def unseen(snapshot: Snapshot) -> list[str]:
        return [name for name, check in checks(snapshot).items() if not check.seen]

    config = {"norm": "none"}
    at_start = foreign(step=0, config=config, layers=(), weights=(), first_loss=None, loss=None, splits=None)
    assert unseen(at_start) == list(checks(at_start))
    early = foreign(step=99, config=config, splits=None, first_loss=3.3, loss=3.0)
    assert unseen(early) == ["loss", "dead units", "update:data", "learning by heart"]
    evaluated = {"first_loss": 3.3, "loss": 3.0, "splits": Splits(3.0, 3.0, None, 50, 3.0)}

    def counted(step: int, config: dict[str, Value]) -> Snapshot:
        return with_layer(foreign(step, config=config, **evaluated), 0, dead=0)

    assert unseen(counted(99, {})) == ["loss", "update:data"]
    assert unseen(counted(300, {"norm": "batch"})) == []
    assert unseen(counted(999, {"optimizer": "rmsprop", "beta2": 0.999})) == ["update:data"]


def test_what_is_seen_of_a_healthy_net_stands_beside_its_limits() -> None:
    *recent, last = train(PRESETS["mlp-batchnorm"].config(), (1, 60, 120))
    assert not examine(last, recent).findings
    seen = checks(last, recent)
    assert list(seen) == [
        "first loss", "loss", "saturation", "dead units", "update:data", "running statistics", "learning by heart",
    ]  # fmt: skip
    assert not any(check.found for check in seen.values())
    assert seen["first loss"].seen == f"{last.first_loss:.2f}, ln V is 3.30"
    assert seen["first loss"].limit == "3.80 at most"
    assert seen["saturation"].seen == f"{100 * last.layers[0].activation.saturated:.0f} % of layer 2 Tanh beyond 0.97"
    assert seen["dead units"].seen == "none"


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("deep-tanh-gain1", {"spread"}),
        ("deep-tanh-gain3", {"saturation", "gradients"}),
        ("mlp-original", {"first loss", "saturation"}),
        ("deep-linear", {"spread", "gradients"}),
    ],
)
def test_what_is_found_is_marked_where_it_was_looked_at(preset: str, expected: set[str]) -> None:
    (first,) = train(PRESETS[preset].config(), (1,))
    assert {check.name for check in examine(first).checks if check.found} - {"dead units"} == expected


@pytest.mark.parametrize("preset", ["mlp-batchnorm", "deep-tanh-gain1", "deep-tanh-gain3", "deep-slow", "mlp-softmax"])
def test_what_is_measured_is_told_in_numbers_and_wrong_beyond_the_limits(preset: str) -> None:
    *recent, last = train(PRESETS[preset].config(), (1, 60, 120))
    for check in examine(last, recent).checks:
        if check.name == "loss":  # what is no number any more is told in words
            continue
        assert bool(check.measured.keys() & check.limits) == bool(check.seen), check
        bounds = [(check.measured[name], *check.limits[name]) for name in check.measured.keys() & check.limits]
        ends = [(one, -math.inf if least is None else least, math.inf if most is None else most)
                for one, least, most in bounds]  # fmt: skip
        beyond = [one for one, least, most in ends if not least <= one <= most]
        assert bool(beyond) == check.found, check


def test_a_net_that_was_saturated_from_the_start_shows_the_limit_it_is_judged_by() -> None:
    then = with_layer(foreign(step=1), 1, saturated=0.9)
    (check,) = [one for one in examine(with_layer(foreign(), 1, saturated=0.4), [then]).checks if one.found]
    assert (check.name, check.seen, check.limit) == (
        "saturation",
        "40 % of layer 1 Mish beyond 0.97",
        "30 % at most: began so",
    )
    assert checks(with_layer(foreign(), 1, saturated=0.4))["saturation"].limit == "75 % at most"


def test_a_finding_of_the_start_marks_nothing_of_now_but_the_first_loss() -> None:
    then = with_layer(foreign(step=1), 1, saturated=0.9)
    now = foreign(first_loss=9.0, loss=2.0, expected_loss=3.3)
    assert {finding.name for finding in findings(now, [then]) if finding.past} == {"saturated", "confidently-wrong"}
    assert [check.name for check in examine(now, [then]).checks if check.found] == ["first loss"]


def test_a_twin_that_is_gone_back_to_is_judged_by_how_it_began() -> None:
    chart = doctor.Chart()

    def twin(step: int, attempt: int, origin: int | None, saturated: float) -> Snapshot:
        return with_layer(foreign(step, attempt=attempt, origin=origin), 1, saturated=saturated)

    chart.see(foreign(1, twin=twin(1, 0, None, 0.9)))
    chart.see(foreign(1, attempt=1))  # a restart without it
    chart.see(foreign(6000, attempt=2, origin=0, twin=twin(6000, 2, 0, 0.4)))
    assert chart.twin
    assert [finding.name for finding in chart.twin.examine().findings] == ["saturated"]


def test_a_diverged_run_is_told_by_its_first_bad_loss() -> None:
    chart = doctor.Chart()
    last = foreign(step=20, state="diverged", loss=math.nan, losses=(3.0, 3.1, math.inf, math.nan))
    for snapshot in (foreign(step=16, losses=(3.0,) * 16), last, last):  # the last one may come twice
        chart.see(snapshot)
    (found,) = chart.examine().findings
    assert (found.name, found.evidence) == ("diverged", "the loss is no number from step 18 on")


def test_the_twin_has_a_chart_of_its_own() -> None:
    chart = doctor.Chart()
    twin = with_layer(foreign(), 1, saturated=0.8)
    chart.see(foreign(twin=twin))
    assert chart.examine().findings == ()
    assert chart.twin
    assert [finding.name for finding in chart.twin.examine().findings] == ["saturated"]
    chart.see(foreign(step=6000))
    assert chart.twin is None


def test_a_loss_in_evaluation_that_is_marked_is_explained_while_the_statistics_settle() -> None:
    config = {"norm": "batch", "norm_momentum": 0.001, "batch_size": 32}
    (found,) = findings(foreign(steps=200_000, config=config, splits=Splits(809.0, 809.0, None, 1, 3.4)))
    assert (found.what, found.fix) == ("unsettled statistics", None)
    assert found.suggestion.startswith("train on: they are an average over about 3,000 updates")
    assert findings(foreign(steps=200_000, config=config, splits=Splits(3.6, 3.6, None, 1, 3.4))) == ()


def test_unsettled_statistics_of_a_long_run_are_averaged_over_more_batches() -> None:
    config = {"norm": "batch", "norm_momentum": 0.01, "batch_size": 32}
    (found,) = findings(foreign(steps=200_000, config=config, splits=Splits(2.5, 2.5, None, 6000, 2.1)))
    assert (found.what, found.fix) == ("unsettled statistics", {"norm_momentum": 0.001})


@pytest.mark.parametrize(("steps", "momentum"), [(5_000, 0.01), (200_000, 0.001)])
def test_statistics_are_averaged_over_no_more_batches_than_the_run_has(steps: int, momentum: float) -> None:
    noisy = foreign(steps=steps, config={"norm": "batch", "norm_momentum": 0.1, "batch_size": 4})
    (found,) = [found for found in findings(noisy) if found.name == "running-statistics"]
    assert found.fix == {"norm_momentum": momentum}


def test_a_run_that_blew_up_on_tiny_batches_is_given_larger_ones() -> None:
    ruined = foreign(state="diverged", loss=math.nan, first_loss=3.3, expected_loss=3.3)
    assert advice(Config(batch_size=4), ruined, "diverged").fix == {"batch_size": 32}


def test_the_losses_of_the_start_are_no_part_of_the_latest() -> None:
    began, now = (foreign(step=step, losses=(loss,), first_loss=30.0) for step, loss in ((1, 30.0), (5000, 2.0)))
    assert checks(now, [began])["loss"].seen == "2.00, 30.00 at the first"
