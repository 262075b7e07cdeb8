"""A text file as examples: the lecture's windows, any alphabet, and one clear line for what cannot be used."""

from __future__ import annotations

import hashlib
import os
import random
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from makemore_core.dataset import Dataset, distinct, embedded_names, read

TextFile = Callable[[bytes], Path]


def items(dataset: Dataset) -> list[str]:
    """All items, in no order that means anything."""
    return sorted(dataset.train + dataset.val + dataset.test)


def windows(words: tuple[str, ...], alphabet: tuple[str, ...], block_size: int) -> tuple[list[list[int]], list[int]]:
    """Part 3, `build_dataset`, as it stands there but for the edge mark, which is no character here."""
    X, Y = [], []
    for w in words:
        context = [0] * block_size
        for ix in [alphabet.index(ch) + 1 for ch in w] + [0]:
            X.append(context)
            Y.append(ix)
            context = [*context[1:], ix]
    return X, Y


def made(words: list[str]) -> Dataset:
    return Dataset("", "", tuple(words), (), (), tuple(sorted(set("".join(words)))))


@given(st.lists(st.text("ab.é🐈\u2028 ", min_size=1, max_size=9), min_size=1, max_size=8), st.integers(1, 12))
def test_the_examples_are_those_of_the_lectures_loop(words: list[str], block_size: int) -> None:
    dataset = made(words)
    split = dataset.examples(dataset.train, block_size)
    X, Y = windows(dataset.train, dataset.alphabet, block_size)
    assert (split.x.tolist(), split.y.tolist()) == (X, Y)
    assert split.x.dtype == split.y.dtype == torch.int64


@given(st.lists(st.text("abĉ", max_size=12), min_size=1), st.sampled_from([1, 3, 8, 40]))
def test_each_context_once_and_every_example_counted(words: list[str], block_size: int) -> None:
    split = Dataset("", "", (), (), (), tuple("abĉ")).examples(tuple(words), block_size)
    once = distinct(split)
    contexts = [tuple(x) for x in once.x.tolist()]
    assert len(set(contexts)) == len(contexts)
    assert once.row.tolist() == sorted(once.row.tolist())
    counted = {(contexts[row], y): n for row, y, n in zip(*(part.tolist() for part in once[1:]), strict=True)}
    assert counted == Counter((tuple(x), y) for x, y in zip(split.x.tolist(), split.y.tolist(), strict=True))


def test_the_embedded_names() -> None:
    dataset = read()
    assert len(items(dataset)) == 32_952
    assert "".join(dataset.alphabet) == "abcdefghijklmnopqrstuvwxyz"
    assert dataset.vocabulary == 27
    assert dataset.sha256 == hashlib.sha256(embedded_names().read_bytes()).hexdigest()


def test_the_split_is_the_lectures_by_item(text_file: TextFile) -> None:
    words = [f"item{number}" for number in range(1003)]
    dataset = read(text_file("\n".join(words).encode()))
    random.seed(42)
    random.shuffle(words)
    n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
    assert [*dataset.train] == words[:n1]
    assert [*dataset.val] == words[n1:n2]
    assert [*dataset.test] == words[n2:]


def test_reading_leaves_the_global_generator_alone(text_file: TextFile) -> None:
    state = random.getstate()
    read(text_file(b"a\nb\nc\n"))
    assert random.getstate() == state


@pytest.mark.parametrize("n", [3, 4, 5, 9, 10, 11])
def test_no_split_is_empty_however_few_items_there_are(n: int, text_file: TextFile) -> None:
    dataset = read(text_file("\n".join("abcdefghijk"[:n]).encode()))
    assert min(len(dataset.train), len(dataset.val), len(dataset.test)) >= 1
    assert items(dataset) == list("abcdefghijk"[:n])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\nb\nc\n", ["a", "b", "c"]),
        ("a\nb\nc", ["a", "b", "c"]),
        ("a\r\nb\r\nc\r\n", ["a", "b", "c"]),
        ("\ufeffa\nb\nc\n", ["a", "b", "c"]),
        ("a\n\n  \n\t\nb\n\r\nc\n\n", ["a", "b", "c"]),
        ("a\nb\u2028c\nd\u0085\x0b\x0c\x1ce\nf\n", ["a", "b\u2028c", "d\u0085\x0b\x0c\x1ce", "f"]),
        (" a \nb\tc\nd\n", [" a ", "b\tc", "d"]),
        (".\n..\na.b\n", [".", "..", "a.b"]),
        ("жук\nkäse\n🐈‍⬛\n日本\n", ["käse", "жук", "日本", "🐈‍⬛"]),
        ("a\na\na\n", ["a", "a", "a"]),
        ("\x1b[31mred\nb\nc\n", ["\x1b[31mred", "b", "c"]),
        ("a\rb\nc\nd\n", ["a\rb", "c", "d"]),
        ("a\ufeff\nb\nc\n", ["a\ufeff", "b", "c"]),
    ],
)
def test_any_utf8_text_one_item_a_line(content: str, expected: list[str], text_file: TextFile) -> None:
    dataset = read(text_file(content.encode()))
    assert items(dataset) == sorted(expected)
    assert dataset.alphabet == tuple(sorted(set("".join(expected))))
    split = dataset.examples(dataset.train, 3)
    assert (split.x.tolist(), split.y.tolist()) == windows(dataset.train, dataset.alphabet, 3)


def test_text_is_made_of_indices_again() -> None:
    dataset = made(["käse", "a.b"])
    split = dataset.examples(dataset.train, 3)
    assert dataset.text(split.y.tolist()) == "käsea.b"


# ---- what cannot be used -------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no items: the file is empty"),
        (b"\n \r\n\t\n", "no items: every line is blank"),
        (b"\xef\xbb\xbf", "no items: every line is blank"),
        (b"a\n", "1 item: at least 3 are needed, one each for train, val and test"),
        (b"a\nb\n\n", "2 items: at least 3 are needed, one each for train, val and test"),
        (b"a\nb\xff\nc\n", "not UTF-8 text: byte 3 cannot be read"),
        (b"\xef\xbb\xbfa\nb\xff\nc\n", "not UTF-8 text: byte 6 cannot be read"),
        (b"\xff\xfea\x00", "not UTF-8 text: byte 0 cannot be read"),
        (b"a\nb\n\xe2\x82", "not UTF-8 text: byte 4 cannot be read"),
        (b"\xed\xa0\x80\nb\nc", "not UTF-8 text: byte 0 cannot be read"),
        (b"a\nb\0\nc\n", "not a text file: NUL at byte 3"),
        (b"\xef\xbb\xbfa\nb\0\nc\n", "not a text file: NUL at byte 6"),
    ],
)
def test_bad_content_is_refused_in_one_line(content: bytes, message: str, text_file: TextFile) -> None:
    assert refusal(text_file(content)) == message


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.txt") == "no such file"
    assert refusal(tmp_path / "none" / "deeper.txt") == "no such file"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "is a folder; a text file is needed, one item a line"


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    """Opening a FIFO that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "fifo", tmp_path / "socket", Path("/dev/null")):
        assert refusal(path) == "not a regular file; a text file is needed, one item a line"


def test_an_unreadable_file(text_file: TextFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(b"a\nb\nc\n")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def denied(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", denied)
    assert refusal(path) == "cannot be read: Permission denied"


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert refusal(tmp_path / "a").startswith("cannot be read: ")


def test_a_file_below_a_file(text_file: TextFile) -> None:
    assert refusal(text_file(b"a\nb\nc\n") / "deeper").startswith("cannot be read: ")


def test_a_hostile_file_name_is_told_in_one_printable_line(tmp_path: Path) -> None:
    for name in ("a\nb", "\x1b[31m", "\udcff"):
        with pytest.raises(ValueError, match="no such file") as caught:
            read(tmp_path / name)
        assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match=r"/é\\x1b: no such file$"):
        read(tmp_path / "é\x1b")


@given(content=st.binary(max_size=200))
def test_garbage_is_a_dataset_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(content)
    try:
        dataset = read(path)
    except ValueError as error:
        message = str(error)
        assert message.isprintable()
    else:
        assert min(len(dataset.train), len(dataset.val), len(dataset.test)) >= 1
        dataset.examples(dataset.test, 3)
