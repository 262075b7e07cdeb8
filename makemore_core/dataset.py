"""A text file as examples for a character model: which characters came before, which comes next.

Reading and splitting need no torch, so that bad input is refused before anything slow is loaded.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from makemore_core.config import printable

if TYPE_CHECKING:
    from torch import Tensor

EDGE = 0  # the index of the mark before and after every item
SPLIT_SEED = 42  # part 2 and 3: random.seed(42); random.shuffle(words)


class Split(NamedTuple):
    """Examples: `x` (N, T) indices of the characters before, `y` (N,) of the next one; both int64."""

    x: Tensor
    y: Tensor


class Distinct(NamedTuple):
    """Examples with every context once, which is all that a loss in evaluation and a dead unit depend on.

    `x` (U, T): the contexts; `row`, `y`, `times` (P,), by row: which characters follow each, and in how many examples.
    """

    x: Tensor
    row: Tensor
    y: Tensor
    times: Tensor


def distinct(split: Split) -> Distinct:
    """The same examples, each context once: a few thousand in names, where the net would see 200,000."""
    import torch

    symbols = 1 + int(max(split.x.max(), split.y.max()))
    context = torch.zeros_like(split.y)
    for character in split.x.unbind(1):  # numbered anew after each character, so that no number grows too large
        context = torch.unique(context * symbols + character, return_inverse=True)[1]
    x = split.x.new_empty((1 + int(context.max()), split.x.shape[1]))
    x[context] = split.x
    pairs, times = torch.unique(context * symbols + split.y, return_counts=True)
    return Distinct(x, pairs // symbols, pairs % symbols, times)


class Dataset(NamedTuple):
    """The items of a file, shuffled and split 80/10/10, at least one in each, and their alphabet.

    The alphabet is sorted and without the edge mark.
    """

    path: str
    sha256: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    alphabet: tuple[str, ...]

    @property
    def vocabulary(self) -> int:
        """How many symbols the net tells apart: the alphabet and the edge mark, which is 0."""
        return len(self.alphabet) + 1

    def examples(self, items: tuple[str, ...], block_size: int) -> Split:
        """All contexts of `block_size` characters, padded with the edge mark, and what follows each; at least one item.

        In the order of the lecture's loop (part 3, `build_dataset`).
        """
        import torch

        index, padding = self._index(), [EDGE] * block_size
        stream: list[int] = []
        for item in items:
            stream += padding
            stream += [index[character] for character in item]
        stream += padding
        flow = torch.tensor(stream, dtype=torch.int64)
        lengths = torch.tensor([len(item) for item in items], dtype=torch.int64)
        starts = torch.cumsum(lengths + block_size, 0) - lengths - block_size
        # an item of n characters makes n + 1 examples: each character, and the edge after the last
        counts = lengths + 1
        within = torch.arange(int(counts.sum())) - torch.repeat_interleave(torch.cumsum(counts, 0) - counts, counts)
        first = torch.repeat_interleave(starts, counts) + within
        windows = flow.unfold(0, block_size + 1, 1)[first]
        return Split(windows[:, :-1].contiguous(), windows[:, -1].contiguous())

    def indices(self, text: str) -> list[int]:
        """The indices of the characters of `text`. Raises ValueError for one that is not in the alphabet."""
        index = self._index()
        if strange := next((character for character in text if character not in index), None):
            known, most = printable("".join(self.alphabet)), 80
            raise ValueError(
                f"'{printable(text)}': '{printable(strange)}' is not among the characters of the data, "
                f"{known if len(known) <= most else known[:most] + ' ...'}"
            )
        return [index[character] for character in text]

    def _index(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.alphabet, start=1)}

    def text(self, indices: list[int]) -> str:
        """The characters of `indices`, the edge mark left out."""
        return "".join(self.alphabet[i - 1] for i in indices if i != EDGE)


def embedded_names() -> Path:
    """The names that come with the program."""
    packaged = Path(__file__).with_name("names.txt")
    return packaged if packaged.exists() else Path(__file__).parent.parent / "data" / "names.txt"


def read(path: str | os.PathLike[str] | None = None) -> Dataset:
    """The items of a UTF-8 text file, one a line; blank lines are left out, BOM and CRLF accepted.

    Raises ValueError, in one line for people, for a file that cannot be used.
    """
    if path == "":
        raise ValueError("data: the name of a file is needed")
    path = embedded_names() if path is None else Path(path)
    raw = _bytes(path)
    shown = printable(str(path))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: not UTF-8 text: byte {_offset(raw, error)} cannot be read") from None
    if "\0" in text:
        raise ValueError(f"{shown}: not a text file: NUL at byte {raw.index(0)}")
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    items = [line for line in lines if line.strip()]
    if not items:
        raise ValueError(f"{shown}: no items: {'the file is empty' if not raw else 'every line is blank'}")
    if len(items) < 3:
        found = "1 item" if len(items) == 1 else f"{len(items)} items"
        raise ValueError(f"{shown}: {found}: at least 3 are needed, one each for train, val and test")
    alphabet = tuple(sorted(set("".join(items))))
    random.Random(SPLIT_SEED).shuffle(items)
    n = len(items)
    first = max(1, min(int(0.8 * n), n - 2))
    second = max(first + 1, min(int(0.9 * n), n - 1))
    return Dataset(
        os.fspath(path),
        hashlib.sha256(raw).hexdigest(),
        tuple(items[:first]),
        tuple(items[first:second]),
        tuple(items[second:]),
        alphabet,
    )


def read_again(run: str, data: str, sha256: str) -> Dataset:
    """What a run was started with, from the file that it is in now. Raises ValueError where that is something else."""
    found = read(data)
    if sha256 not in (found.sha256, ""):
        raise ValueError(f"--data {printable(data)}: is not what {run} was started with")
    return found


def _bytes(path: Path) -> bytes:
    shown = printable(str(path))
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(f"{shown}: is a folder; a text file is needed, one item a line")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{shown}: not a regular file; a text file is needed, one item a line")
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{shown}: no such file") from None
    except OSError as error:
        raise ValueError(f"{shown}: cannot be read: {error.strerror}") from None


def _offset(raw: bytes, error: UnicodeDecodeError) -> int:
    """Where in the file, counted from 0; the codec leaves a BOM out of its count."""
    return error.start + (3 if raw.startswith(b"\xef\xbb\xbf") and len(error.object) < len(raw) else 0)
