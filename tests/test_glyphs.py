"""Numbers to glyphs, literally; and text from anywhere, harmless and of an exact width."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from app import glyphs
from app.glyphs import ASCII, UNICODE


def test_levels_are_a_row_of_blocks() -> None:
    assert glyphs.bars(range(9)) == " ▁▂▃▄▅▆▇█"
    assert glyphs.bars(range(9), ASCII) == " .:-=+*#@"


@pytest.mark.parametrize(
    ("value", "level"),
    [(0, 0), (1e-9, 1), (0.5, 4), (1, 8), (2, 8), (-1, 0), (math.nan, 0), (math.inf, 8)],
)
def test_a_value_is_a_level(value: float, level: int) -> None:
    assert glyphs.level(value, 1) == level


@pytest.mark.parametrize(
    ("share", "row"),
    [(0.0, "    "), (1e-6, "▏   "), (0.14, "▌   "), (0.5, "██  "), (0.53, "██▏ "), (1.0, "████"), (math.nan, "    ")],
)
def test_a_meter_counts_eighths_of_a_cell(share: float, row: str) -> None:
    assert glyphs.meter(share, 4) == row
    assert len(glyphs.meter(share, 4, ASCII)) == 4
    assert glyphs.meter(share, 4, ASCII).isascii()


def test_a_tower_is_its_row_drawn_taller() -> None:
    assert glyphs.tower([0, 2, 4, 8], 1) == [" ▂▄█"]
    assert glyphs.tower([0, 2, 4, 8], 2) == ["   █", " ▄██"]
    assert glyphs.tower([0.01, 8], 3) == [" █", " █", "▁█"]


def test_progress_is_in_two_parts() -> None:
    assert glyphs.progress(0.25, 8) == ("━━", "──────")
    assert glyphs.progress(7, 4, ASCII) == ("====", "")
    assert glyphs.progress(math.nan, 4) == ("", "────")


def test_a_minus_in_words_is_that_of_the_tables() -> None:
    assert UNICODE.text("near -3, -1..1 (-0.5)") == "near −3, −1..1 (−0.5)"
    assert UNICODE.text("deep-tanh-2 1e-3 /runs/-5 n - 1 key -") == "deep-tanh-2 1e-3 /runs/-5 n - 1 key -"
    assert ASCII.text("near -3 and −3") == "near -3 and -3"


def row(counts: list[float], low: float, high: float, cells: int) -> str:
    return glyphs.tower(glyphs.heights(glyphs.rebin(counts, low, high, -1, 1, cells)), 1)[0]


def test_histograms_of_healthy_saturated_shrunk_and_dead_layers() -> None:
    assert row([1] * 8, -1, 1, 8) == "▂▂▂▂▂▂▂▂"
    assert row([9, 1, 0, 0, 0, 0, 1, 9], -1, 1, 8) == "▅▁    ▁▅"
    assert row([0, 0, 0, 50, 50, 0, 0, 0], -1, 1, 8) == "   ▆▆   "
    assert row([0] * 8, -1, 1, 8) == " " * 8


def test_what_lies_outside_the_scale_is_in_the_edge_cells() -> None:
    assert glyphs.rebin([1, 2, 3, 4], -4, 4, -1, 1, 4) == pytest.approx([0.25, 0.05, 0.075, 0.625])
    assert glyphs.rebin([6, 1, 1, 2], -0.5, 0.5, -1, 1, 8, tails=True) == [0.6, 0, 0, 0.1, 0.1, 0, 0, 0.2]
    assert glyphs.rebin([5], 3, 3, -1, 1, 4) == [0, 0, 0, 1]  # a constant
    assert glyphs.rebin([1, 1], -1, math.nan, -1, 1, 2) == [0, 0]


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=60),
    st.floats(-5, 5),
    st.floats(0.01, 10),
    st.integers(1, 80),
)
def test_no_count_is_lost(counts: list[int], low: float, width: float, cells: int) -> None:
    shares = glyphs.rebin(counts, low, low + width, -1, 1, cells)
    assert len(shares) == cells
    assert sum(shares) == pytest.approx(1 if sum(counts) else 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.63, "0.63"), (-0.004, "0.00"), (12.345, "12.3"), (123.4, " 123"), (1234.5, "1234"), (123456, "1e5"),
        (math.nan, " nan"), (math.inf, " inf"), (-math.inf, "−inf"), (1e300, ">999"),
    ],
)  # fmt: skip
def test_a_fixed_number_fits(value: float, text: str) -> None:
    shown = glyphs.fixed(value, 4)
    assert shown.strip() == text.strip()
    assert len(shown) <= 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0026407, "2.6e-3"), (-1.25e10, "-1.2e10"), (0, "0"), (math.nan, "nan"), (9.99e-4, "1.0e-3")],
)
def test_two_digits_and_a_power_of_ten(value: float, text: str) -> None:
    assert glyphs.scientific(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "  0%"), (0.0001, "<.1%"), (0.0278, "2.8%"), (0.14, " 14%"), (1, "100%"), (math.nan, " nan")],
)
def test_percentages(share: float, text: str) -> None:
    assert glyphs.percent(share) == text


def test_counts_rates_and_times() -> None:
    assert [glyphs.short(n) for n in (950, 41_250, 200_000, 1_500_000)] == ["950", "41.2k", "200k", "1.5M"]
    assert [glyphs.rate(n) for n in (5123.4, 0.51234, 0, 98_765, math.inf)] == ["5,120", "0.512", "0", "98,800", "inf"]
    assert [glyphs.duration(s) for s in (31, 3600, 3723, 300_000, math.inf, math.nan, -1)] == [
        "0:31", "1:00:00", "1:02:03", "3d11h", "?", "?", "?",
    ]  # fmt: skip


HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x9b2J": "\\x9b2J",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "a\u202eb": "a\\u202eb",
    "zero\u200bwidth": "zero\\u200bwidth",
    "[/x]": "[/x]",
    "e\u0301a": "éa",
    "\u0301": "\\u0301",
    "x\u0301\u0301\u0301": "x\u0301\u0301\\u0301",
    "\ud800": "\\ud800",
    "tab\there\r\n": "tab\\x09here\\x0d\\x0a",
    "日本": "日本",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_not_obeyed(text: str) -> None:
    assert glyphs.escape(text) == HOSTILE[text]


@given(st.text(), st.integers(0, 40), st.booleans())
def test_any_text_is_safe_and_of_the_width_asked_for(text: str, width: int, ascii: bool) -> None:  # noqa: A002
    shown = glyphs.safe(text, width, ASCII if ascii else UNICODE)
    assert cell_len(shown) == width
    assert not [
        char for char in shown if unicodedata.category(char)[0] == "C" or unicodedata.category(char) in ("Zl", "Zp")
    ]
    assert shown.isascii() or not ascii


@given(st.text(max_size=200), st.integers(1, 40))
def test_wrapped_lines_fit(text: str, width: int) -> None:
    escaped = glyphs.escape(text)
    lines = glyphs.wrap(escaped, width)
    assert all(glyphs.width_of(line) <= max(2, width) for line in lines)
    assert "".join("".join(lines).split()) == "".join(escaped.split())


def test_every_glyph_of_both_sets_is_one_cell_wide_and_both_say_the_same() -> None:
    for glyph_set in (UNICODE, ASCII):
        for field, value in glyph_set._asdict().items():
            if isinstance(value, str):
                assert cell_len(value) == len(value), field
    assert all(value.isascii() for value in ASCII if isinstance(value, str))
    assert ASCII.text("gain 1 → 5/3 …") == "gain 1 -> 5/3 ~"


def test_a_number_with_a_power_of_ten_gives_up_a_digit_before_it_overflows() -> None:
    numbers = (2.6e-3, 1.0, -7.7e-13, 1e-300, 9.96e4, 0.0, math.nan, -math.inf)
    shown = ["2.6e-3", " 1.0e0", "-8e-13", "1e-300", " 1.0e5", "     0", "   nan", "  -inf"]
    assert [glyphs.scientific(number, None, 6) for number in numbers] == shown
    assert glyphs.scientific(-7.7e-13, glyphs.UNICODE) == "−7.7e-13"
