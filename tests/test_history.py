"""A stream of snapshots accumulated: no spike lost, no size without bound, ghosts, marks and steady numbers."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.history import MOST_PAST, MOST_TRACES, History, round_down
from app.series import Series
from app.traces import SHORT_BUCKETS, LayerTrace, steady
from makemore_core.config import Config, Value
from makemore_core.snapshot import Exhibit, Histogram, Intervention, Splits
from tests import canned


def test_a_series_keeps_every_spike_however_long_the_run() -> None:
    series = Series(most=64)
    for step in range(10_000):
        series.add(step, 100.0 if step == 5_431 else -50.0 if step == 777 else 2.0)
    assert len(series) <= 64
    columns = series.columns(512)
    assert len(columns) == 20
    assert columns[5_431 // 512].high == 100.0  # type: ignore[union-attr]
    assert columns[777 // 512].low == -50.0  # type: ignore[union-attr]
    assert columns[3].mean == 2.0  # type: ignore[union-attr]


@given(st.integers(0, 3000), st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(0, 2**32))
def test_columns_are_those_of_the_plain_list(start: int, chunks: list[int], seed: int) -> None:
    noise = random.Random(seed)
    series = Series(most=64)
    values: dict[int, float] = {}
    step = start
    for chunk in chunks:
        told = [noise.gauss(0, 1) for _ in range(chunk)]
        series.extend(step, told)
        values |= dict(enumerate(told, step))
        step += chunk
        series.columns(series.stride * 2)  # what was cut once must stay right
    size = series.stride * 2
    columns = series.columns(size)
    assert len(columns) == -(-step // size)
    for at, column in enumerate(columns):
        inside = [v for s, v in values.items() if s // size == at]
        if not inside:
            assert column is None
        else:
            assert column is not None
            assert (column.low, column.high) == (min(inside), max(inside))
            assert column.mean == pytest.approx(sum(inside) / len(inside))


def test_what_was_seen_twice_counts_once_and_what_is_no_number_is_told() -> None:
    series = Series()
    series.extend(0, [1.0, 2.0])
    series.extend(0, [1.0, 2.0, 3.0])
    assert [b.mean for b in series.columns(1) if b] == [1.0, 2.0, 3.0]
    series.extend(3, [math.nan, 5.0, math.inf])
    assert series.broken == 3
    assert series.columns(1)[3] is None
    assert series.bounds() == (1.0, 5.0)
    series.cut(3)
    assert series.broken is None
    series.spread(1, 4, [3.0, 4.0], 3.5)
    assert series.end == 5
    assert Series().bounds() is None
    assert Series().columns(4) == []


def test_a_restart_turns_the_curve_into_a_ghost() -> None:
    history = History()
    history.feed(canned.course(until=2000))
    history.feed([canned.snapshot(step=100, since=0, attempt=1)])
    assert [ghost.loss.end for ghost in history.ghosts] == [2000]
    assert history.attempt.loss.end == 100
    for attempt in range(2, 12):
        history.feed([canned.snapshot(step=100, since=0, attempt=attempt)])
    assert len(history.ghosts) == 4


def test_going_back_to_an_earlier_net_goes_on_with_its_curve() -> None:
    history = History()
    history.feed(canned.course(until=2000))
    history.feed(canned.course(canned.SICK, until=1000, attempt=1))
    back = canned.snapshot(step=2000, since=2000, attempt=2)
    history.feed([msgspec.structs.replace(back, origin=0)])
    assert (history.attempt.number, history.attempt.loss.end) == (2, 2000)
    assert history.attempt.val[0][0] < 2000
    assert [(ghost.number, ghost.loss.end) for ghost in history.ghosts] == [(1, 1000)]
    history.feed([msgspec.structs.replace(canned.snapshot(step=2100, since=2000, attempt=2), origin=0)])
    assert history.attempt.loss.end == 2100


def test_however_many_nets_came_in_between_a_net_that_is_gone_back_to_has_its_layers_curves() -> None:
    """Also one that was changed live, and as often as the run goes on from a checkpoint."""
    for origins in ([None] * 5 + [0], [0, 0], [0, 1, 2, 0]):
        history = History()
        history.feed(canned.course(until=2000))
        before = len(history.weights["W1"].update)
        for _ in range(3):
            for attempt, origin in enumerate(origins, start=1):
                step = 2000 if origin is not None else 50
                since = 2000 if origin is not None else 0
                history.feed([canned.snapshot(step=step, since=since, attempt=attempt, origin=origin)])
            assert len(history.weights["W1"].update) == before > 3


def test_the_curve_of_the_net_that_took_longest_is_there_however_often_one_restarts_and_goes_back() -> None:
    history = History()
    history.feed(canned.course(until=2000))
    for attempt in range(1, 41):
        history.feed([canned.snapshot(step=50, since=0, attempt=attempt)])
    for attempt in range(41, 50):  # to those one after the other
        origin = 81 - attempt
        history.feed([canned.snapshot(step=50, since=50, attempt=attempt, origin=origin)])
    history.feed([canned.snapshot(step=2000, since=2000, attempt=50, origin=0)])
    assert history.attempt.loss.end == 2000
    assert len(history.attempt.loss) > 1000


def test_of_many_curves_those_go_first_that_a_later_net_has_too() -> None:
    """A net that was gone back to, however long it was trained, before one that took little."""
    history = History()
    history.feed(canned.course(until=2000))
    history.feed([canned.snapshot(step=50, since=0, attempt=1)])
    history.feed([canned.snapshot(step=2000, since=2000, attempt=2, origin=0)])
    history.feed(canned.snapshot(step=50, since=0, attempt=attempt) for attempt in range(3, MOST_PAST + 1))
    history.feed([canned.snapshot(step=50, since=50, attempt=MOST_PAST + 1, origin=1)])
    assert len(history.attempt.loss) == 50


def test_of_many_curves_those_go_first_that_took_least_since_they_were_changed_live() -> None:
    history = History()
    history.feed(canned.course(until=500))
    history.feed(canned.course(until=2000, attempt=1))
    for attempt in range(2, MOST_PAST + 1):
        step = 2000 + 10 * attempt
        history.feed([canned.snapshot(step=step, since=step - 10, attempt=attempt, origin=attempt - 1)])
    history.feed([canned.snapshot(step=500, since=500, attempt=MOST_PAST + 1, origin=0)])
    assert len(history.attempt.loss) == 500


def test_however_many_changes_take_little_the_layers_of_the_net_that_took_longest_have_their_curves() -> None:
    history = History()
    history.feed(canned.course(until=2000))
    before = len(history.weights["W1"].update)
    for attempt in range(1, MOST_PAST):
        step = 2000 + 10 * attempt
        history.feed([canned.snapshot(step=step, since=step - 10, attempt=attempt, origin=attempt - 1)])
    assert len([past for past in history.past.values() if past.layers]) == MOST_TRACES
    history.feed([canned.snapshot(step=2000, since=2000, attempt=MOST_PAST, origin=0)])
    assert len(history.weights["W1"].update) == before > 3


def test_a_twin_that_comes_back_has_its_curve() -> None:
    history, alone = History(), canned.snapshot(step=60, since=40, attempt=1)
    both = [msgspec.structs.replace(one, twin=one) for one in canned.course(until=2000)]
    history.feed([*both, alone])
    assert history.twin is None
    back = canned.snapshot(step=2000, since=2000, attempt=2, origin=0)
    history.feed([msgspec.structs.replace(back, twin=back)])
    assert history.twin is not None
    assert history.twin.attempt.loss.end == history.attempt.loss.end == 2000
    assert len(history.twin.attempt.loss) == len(history.attempt.loss) > 1000


def test_what_was_asked_of_a_net_is_gone_with_it() -> None:
    history = History()
    history.feed([canned.snapshot(), Exhibit("find-lr", 1000, {})])
    frozen = history.copy()
    history.feed([canned.snapshot(step=2000)])
    assert list(history.exhibits) == ["find-lr"]
    history.feed([canned.snapshot(step=100, attempt=1)])
    assert (list(frozen.exhibits), list(history.exhibits)) == (["find-lr"], [])


@pytest.mark.parametrize(("changed", "kept"), [({"lr": 0.05}, True), ({"gain": 2.0}, False)])
def test_with_another_learning_rate_a_net_is_shown_as_it_was(changed: dict[str, Value], kept: bool) -> None:
    history = History()
    history.feed([*canned.course(until=1000), Exhibit("find-lr", 1000, {})])
    scale, now = (
        history.gradient_scale,
        canned.snapshot(step=1000, since=1000, layers=(), weights=(), attempt=1, origin=0),
    )
    history.feed([msgspec.structs.replace(now, config={**now.config, **changed})])
    assert history.attempt.loss.end == 1000
    assert [*history.exhibits] == ["find-lr"] * kept
    assert history.gradient_scale == (scale if kept else 0.0)


def test_however_often_one_goes_back_each_net_keeps_its_curve_its_marks_and_its_layers() -> None:
    history = History()
    mark = Intervention(500, "lr 0.1 → 0.05", 0)
    history.feed(canned.course(until=1000))
    traces = history.layers
    origins = {1: None, 2: 0, 3: 1, 4: 2, 5: 3, 6: None, 7: None, 8: None, 9: None, 10: None, 11: 4}
    for attempt, origin in origins.items():
        step = 1000 if origin in (0, 2, 4) else 100
        seen = canned.snapshot(step=step, since=step if origin is not None else 0, attempt=attempt)
        history.feed([msgspec.structs.replace(seen, origin=origin, interventions=(mark,))])
        assert history.attempt.loss.end == step
        assert [ghost.number for ghost in history.ghosts] == sorted({ghost.number for ghost in history.ghosts})
        assert not any(ghost.numbers <= history.attempt.numbers for ghost in history.ghosts)
        assert history.marks == ((mark,) if step == 1000 else ())
        if attempt == 2:
            assert history.layers.keys() == traces.keys()
            assert all(trace.std.start == traces[key].std.start for key, trace in history.layers.items())
    history.reset_scales()
    assert history.ghosts == []
    again = canned.snapshot(step=1000, since=1000, attempt=12)
    history.feed([msgspec.structs.replace(again, origin=11), canned.snapshot(step=10, since=0, attempt=13)])
    assert [ghost.number for ghost in history.ghosts] == [12]


def test_what_followed_the_checkpoint_that_a_run_goes_on_from_is_forgotten() -> None:
    history = History()
    history.feed(canned.course(until=4000))
    history.feed(canned.course(canned.SICK, until=2000, attempt=1))
    history.feed([canned.snapshot(step=100, since=0, attempt=2)])
    frozen = history.copy()
    history.feed([canned.snapshot(step=1000, since=1000, attempt=1), canned.snapshot(step=1100, since=1000, attempt=1)])
    assert [(ghost.number, ghost.loss.end) for ghost in frozen.ghosts] == [(0, 4000), (1, 2000)]
    assert [(ghost.number, ghost.loss.end) for ghost in history.ghosts] == [(0, 4000)]
    healthy = canned.snapshot(step=1100, since=1000).losses
    assert (history.attempt.number, history.attempt.loss.end) == (1, 1100)
    assert [bucket.mean for bucket in history.attempt.loss.columns(1)[1000:] if bucket] == list(healthy)
    assert max(step for step, _ in history.attempt.val) <= 1100

    history.feed([canned.snapshot(step=50, since=50, attempt=1)])
    for trace in history.layers.values():
        assert trace.std.end <= 51
    assert len(history.attempt.loss.columns(1)) == 50


def test_marks_are_those_of_the_present_attempt() -> None:
    marks = (Intervention(500, "lr 0.1 → 0.05"), Intervention(0, "gain 1 → 3", 1))
    history = History()
    history.feed([canned.snapshot(step=1000, interventions=marks)])
    assert [mark.what for mark in history.marks] == ["lr 0.1 → 0.05"]
    history.feed([canned.snapshot(step=100, since=0, attempt=1, interventions=marks)])
    assert [mark.what for mark in history.marks] == ["gain 1 → 3"]


def test_numbers_are_smoothed_while_training_and_exact_when_it_stands() -> None:
    history = History()
    history.feed(canned.course(until=10_000))
    exact = canned.snapshot(canned.SICK, 10_001, since=10_000, state="paused")
    history.feed([exact])
    trace = history.layers[2, "Tanh"]
    assert trace.layer == exact.layers[0]
    assert tuple(trace.activation_counts) == exact.layers[0].activation.histogram.counts


def test_a_long_record_read_at_once_shows_what_a_live_view_shows() -> None:
    course = canned.course(until=100_000, every=250)
    live, replayed = History(), History()
    for snapshot in course:
        live.feed([snapshot])
    replayed.feed(course)
    assert len(course) > 300
    for key, trace in live.layers.items():
        other = replayed.layers[key]
        assert trace.std.columns(1024) == other.std.columns(1024)
        assert other.layer.activation.std == pytest.approx(trace.layer.activation.std, abs=0.011)
        assert other.layer.gradient.std == pytest.approx(trace.layer.gradient.std, rel=0.1)
        total = sum(trace.activation_counts)
        assert [n / total for n in other.activation_counts] == pytest.approx(
            [n / total for n in trace.activation_counts],
            abs=0.012,  # what a bar may lag behind
        )
    for name, weight in live.weights.items():
        assert weight.update.columns(1024) == replayed.weights[name].update.columns(1024)
    assert live.attempt.loss.columns(1024) == replayed.attempt.loss.columns(1024)
    assert live.gradient_scale == replayed.gradient_scale


def test_the_newest_layers_are_shown_however_long_ago_they_were_looked_at() -> None:
    course = canned.course(until=200_000, every=1000)
    record = [*course[:20], *(msgspec.structs.replace(event, layers=(), weights=()) for event in course[20:])]
    live, replayed = History(), History()
    for snapshot in record:
        live.feed([snapshot])
    replayed.feed(record)
    for key, layer in live.layers.items():
        assert (replayed.layers[key].layer, replayed.layers[key].smooth) == (layer.layer, layer.smooth)
    for name, weight in live.weights.items():
        assert (replayed.weights[name].weight, replayed.weights[name].smooth) == (weight.weight, weight.smooth)


def test_what_lay_outside_a_histogram_stays_in_its_edge_bins_when_its_reach_moves() -> None:
    layer = canned.snapshot().layers[0]
    trace = LayerTrace.of(layer, 1)
    for step, reach in enumerate((1.0, 0.9, 1.3), 2):
        box = Histogram(-reach, reach, (700, *[0] * 18, 100, 100, *[0] * 18, 700))
        gradient = msgspec.structs.replace(layer.gradient, histogram=box)
        trace.see(msgspec.structs.replace(layer, gradient=gradient), step, 0.2 if step > 2 else 1.0, True)
    assert sum(trace.gradient_counts[1:10]) == 0
    assert trace.gradient_counts[0] == pytest.approx(700)


def test_layers_that_are_numbered_anew_keep_their_own_past() -> None:
    history = History()
    history.feed(canned.course(until=5000))
    before = list(history.layers.values()), list(history.weights.values())
    last = canned.snapshot(step=5500, since=5000)
    bare = msgspec.structs.replace(
        last,
        layers=tuple(msgspec.structs.replace(layer, index=1 + 2 * at) for at, layer in enumerate(last.layers)),
        weights=tuple(msgspec.structs.replace(w, name=f"{2 * at}.weight") for at, w in enumerate(last.weights)),
    )
    history.feed([bare])
    assert [index for index, _ in history.layers] == [1, 3, 5, 7, 9]
    assert (list(history.layers.values()), list(history.weights.values())) == before
    other = tuple(msgspec.structs.replace(layer, kind="ReLU") for layer in bare.layers)
    history.feed([msgspec.structs.replace(bare, step=6000, layers=other)])
    assert not set(map(id, before[0])) & set(map(id, history.layers.values()))


def test_noise_below_what_a_cell_can_show_changes_nothing() -> None:
    history = History()
    history.feed(canned.course(until=20_000))
    versions = [trace.version for trace in history.layers.values()]
    history.feed(canned.snapshot(step=step, since=step - 500) for step in range(20_500, 25_001, 500))
    after = [trace.version for trace in history.layers.values()]
    assert sum(after) - sum(versions) < 10 * len(versions)  # of 10 snapshots most do not show
    assert steady(0.58, 0.583, 0.01) == 0.58
    assert steady(0.58, 0.59, 0.01) == 0.59
    assert steady(math.nan, 0.5, 0.01) == 0.5
    assert math.isnan(steady(0.5, math.nan, 0.01))


def test_scales_hold_until_the_net_has_left_them() -> None:
    history = History()
    history.feed(canned.course(until=2000))
    scale = history.gradient_scale
    assert scale in (0.005, 0.006)  # no further than the histograms
    history.feed([canned.snapshot(replace(canned.HEALTHY, gradient=1.7e-3), 2500, since=2000)])
    assert history.gradient_scale == scale
    history.feed(
        canned.snapshot(replace(canned.HEALTHY, gradient=1e-4), s, since=s - 500) for s in range(3000, 30_000, 500)
    )
    assert history.gradient_scale < scale / 4
    assert [round_down(v) for v in (0.0083, 0.1, 7, 99, 0, math.nan)] == [0.008, 0.1, 6, 80, 1, 1]


@pytest.mark.parametrize(("times", "kept"), [(0.9, True), (1.4, True), (0.8, False), (1.7, False)])
def test_a_scale_is_left_for_what_is_clearly_smaller_or_larger(times: float, kept: bool) -> None:
    history, scales = History(), []
    for std in (2.0, 2.0 * times):
        standing = canned.snapshot(canned.RELU, state="paused")
        layers = tuple(
            msgspec.structs.replace(
                layer,
                activation=msgspec.structs.replace(layer.activation, mean=0.0, std=std),
                gradient=msgspec.structs.replace(layer.gradient, std=std),
            )
            for layer in standing.layers
        )
        history.feed([msgspec.structs.replace(standing, layers=layers)])
        scales.append((history.activation_scale, history.gradient_scale))
    assert scales[0] == (6.0, 6.0)
    assert (scales[1] == scales[0]) == kept


def test_a_run_and_its_twin_share_a_scale_where_both_can_be_seen_on_it() -> None:
    for gradient, shared in ((1e-3, True), (1e-5, False)):
        history = History()
        twin = canned.snapshot(replace(canned.HEALTHY, gradient=gradient))
        history.feed([msgspec.structs.replace(canned.snapshot(), twin=twin)])
        assert history.twin is not None
        assert (history.gradient_scale == history.twin.gradient_scale) == shared
        assert history.twin.gradient_scale <= 3 * gradient * 1.1
    history = History()
    wide = canned.snapshot(replace(canned.RELU, spread=3 * canned.RELU.spread))
    history.feed([msgspec.structs.replace(canned.snapshot(canned.RELU), twin=wide)])
    assert history.twin is not None
    assert history.activation_scale == history.twin.activation_scale > 0


def test_exhibits_are_kept_by_name_the_newest_wins() -> None:
    history = History()
    history.feed([Exhibit("dead-map", 1, {"a": 1}), Exhibit("dead-map", 2, {"a": 2})])
    assert history.exhibits["dead-map"].step == 2


@pytest.mark.parametrize("make", [canned.nan, canned.empty])
def test_nothing_upsets_it(make: object) -> None:
    history = History()
    assert callable(make)
    history.feed([canned.snapshot(), make(2000), canned.snapshot(canned.ONE_LAYER, 3000), make(4000)])
    assert history.snapshot is not None


def test_memory_is_bounded() -> None:
    history = History()
    history.feed(canned.snapshot(step=step, since=step - 400) for step in range(400, 1_000_001, 20_000))
    assert len(history.attempt.loss) <= 2048
    assert all(len(trace.std) <= SHORT_BUCKETS for trace in history.layers.values())
    bare = canned.snapshot(step=1_000_000, since=1_000_000, layers=(), weights=())
    steps = range(1_000_100, 1_500_001, 100)
    history.feed(msgspec.structs.replace(bare, step=step, splits=Splits(None, 2.0, None, step)) for step in steps)
    assert len(history.attempt.val) <= 1024
    assert (history.attempt.val[0][0], history.attempt.val[-1][0]) == (0, 1_500_000)


def test_a_still_copy_stays_as_it_is() -> None:
    history = History()
    history.feed(canned.course(until=5000))
    still = history.copy()
    loss, row = still.attempt.loss.columns(8), still.layers[2, "Tanh"]
    before = (list(loss), row.layer, list(row.activation_counts), row.std.columns(8), list(still.attempt.val))
    history.feed(canned.snapshot(canned.SICK, step, since=step - 500) for step in range(5500, 20_001, 500))
    history.attempt.loss.columns(8)  # drawn too
    assert (
        still.attempt.loss.columns(8), row.layer, list(row.activation_counts), row.std.columns(8), still.attempt.val,
    ) == before  # fmt: skip
    assert history.attempt.loss.end == 20_000


def test_what_is_left_of_old_looks_is_not_shown_once_it_is_less_than_half_a_count() -> None:
    layer = canned.snapshot().layers[0]
    trace = None
    for at, edge in enumerate((5, *[0] * 12)):
        counts = (edge, *[50] * (len(layer.gradient.histogram.counts) - 1))
        histogram = msgspec.structs.replace(layer.gradient.histogram, counts=counts)
        look = msgspec.structs.replace(layer, gradient=msgspec.structs.replace(layer.gradient, histogram=histogram))
        trace = trace or LayerTrace.of(look, 1)
        trace.seen = 100  # a mean of many, of which one more is three tenths
        trace.see(look, 1 + at, 0.3, True)
        assert (trace.gradient_counts[0] > 0) == (at < 9)


def test_what_has_become_many_times_smaller_is_not_shown_by_what_it_was() -> None:
    """A deep net whose gradients are gone after some steps, with ten snapshots a second or one every few seconds."""
    for seconds in (0.1, 5.0):
        history = History()
        for at in range(8):
            snapshot = canned.snapshot(step=1 + 1000 * at, since=1000 * at)
            small = 1e-9 ** min(1.0, at / 3)
            layers = tuple(
                msgspec.structs.replace(layer, gradient=msgspec.structs.replace(layer.gradient, std=1e-3 * small))
                for layer in snapshot.layers
            )
            weights = tuple(msgspec.structs.replace(w, grad_std=w.grad_std * small) for w in snapshot.weights)
            history.feed([msgspec.structs.replace(snapshot, layers=layers, weights=weights, time=seconds * at)])
        assert all(trace.layer.gradient.std < 1e-11 for trace in history.layers.values())
        for name, trace in history.weights.items():
            newest = next(w for w in weights if w.name == name)
            assert trace.weight.grad_std == pytest.approx(newest.grad_std, rel=1e-6)


def test_a_snapshot_between_two_looks_adds_nothing_to_what_was_seen() -> None:
    history = History()
    first = msgspec.structs.replace(canned.snapshot(step=1000), layers_step=1000)
    history.feed([first])
    key, trace = next(iter(history.layers.items()))
    history.feed([msgspec.structs.replace(first, step=step, losses=(), time=first.time + 1) for step in (1500, 2000)])
    assert history.layers[key] is trace
    assert (trace.std.end, trace.seen, history.snapshot and history.snapshot.step) == (1000, 1, 2000)


def test_the_rate_of_a_run_that_is_held_to_a_pace_is_shown_at_once() -> None:
    history = History()
    for at, (rate, pace) in enumerate([(4000.0, None), (3000.0, None), (1.0, 1.0), (10.0, 10.0), (2000.0, None)]):
        snapshot = canned.snapshot(step=1000 + 100 * at)
        history.feed([msgspec.structs.replace(snapshot, steps_per_second=rate, pace=pace, time=0.1 * at)])
        if at >= 2:
            assert history.rate == rate
        else:
            assert 3000 < history.rate <= 4000


def test_the_rate_of_a_new_net_is_shown_at_once() -> None:
    history = History()
    history.feed(canned.course(until=5000))
    slow = canned.snapshot(step=100, since=0, attempt=1, steps_per_second=50.0, config=Config(n_layer=9).as_dict())
    history.feed([slow])
    assert history.rate == 50.0


def test_a_net_that_draws_no_histograms_is_smoothed_all_the_same() -> None:
    history = History()
    for event in canned.course(until=3000):
        none = msgspec.structs.replace(event.layers[0].gradient, histogram=Histogram(0.0, 0.0, ()))
        layer = msgspec.structs.replace(event.layers[0], gradient=none)
        history.feed([msgspec.structs.replace(event, layers=(layer,))])
    assert [trace.gradient_counts for trace in history.layers.values()] == [[]]
