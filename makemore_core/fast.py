"""The fast engine: whole training steps in C, compiled once for this machine, run without Python or the GIL.

It stands beside the plain engine because speed costs the lecture's order of operations: same formulas, same
minibatches, same tensors in place, but sums in another order, so it agrees within rounding and not to the bit.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from makemore_core.dataset import Split
from makemore_core.engine import Taps
from makemore_core.layers import (
    ELU,
    BatchNorm1d,
    Brick,
    GroupNorm,
    Identity,
    LeakyReLU,
    Linear,
    Norm,
    ReLU,
    Residual,
    Sigmoid,
    Tanh,
)
from makemore_core.model import Model
from makemore_core.optim import SLOTS, Optimizer

SOURCE = Path(__file__).with_name("fast.c")
# No -ffast-math: a net that diverges has to be seen to diverge, and the same steps have to give the same bits.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
# The compiler goes on where this process ends before it: what it has made is there for the next one.
COMPILE = 'made=$0; part=$made.$$.part; "$@" -o "$part" && { sync "$part"; mv "$part" "$made"; }'
STALE = 3600.0  # seconds after which a part of a compilation passes for abandoned
LANES, GRAD_ROWS, PANEL, MANY = 32, 8, 48, 4  # as in fast.c, or more
ALIGN = 16  # floats in a cache line

RULES = tuple(SLOTS)  # in the order of fast.c
KINDS: tuple[type[Brick], ...] = (Linear, BatchNorm1d, GroupNorm, Tanh, ReLU, LeakyReLU, ELU, Sigmoid, Identity)
ADD = len(KINDS)  # the end of a residual connection


class Build:
    """The compiled kernels: found in the cache, or being compiled by a process of its own while the net trains."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._lock = threading.Lock()  # several trainers of one process may ask at once
        self._compiler: subprocess.Popen[bytes] | None = None
        self._library: ctypes.CDLL | None = None
        try:
            self._start()
        except OSError as error:
            self.problem = f"no fast engine: {error}"

    def _start(self) -> None:
        compiler = _compiler()
        if compiler is None:
            self.problem = "no fast engine: no C compiler (cc, gcc or clang) on this machine"
            return
        command = [*compiler, *FLAGS, _native()]
        folder = _cache()
        self._target = folder / f"fast-{_key(command)}.so"
        self._made = self._target.with_suffix(".made")
        if _sound(self._target) or self._made.exists():
            return
        _sweep(folder)
        self._compiler = subprocess.Popen(
            ["sh", "-c", COMPILE, str(self._made), *command, str(SOURCE), "-lm"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def ready(self) -> bool:
        """Whether there is nothing left to wait for: the kernels can be loaded, or `problem` says why not."""
        compiler = self._compiler
        return self.problem is not None or compiler is None or compiler.poll() is not None

    def library(self) -> ctypes.CDLL:
        """The kernels; waits for the compiler. Raises ValueError, in one line, where there are none."""
        problem = self.missing()
        if self._library is None:
            raise ValueError(problem)
        return self._library

    def missing(self) -> str | None:
        """Why there are no kernels, in one line, or None; waits for the compiler."""
        with self._lock:
            if self._library is None and self.problem is None:
                try:
                    self._finish()
                    self._library = self._load()
                except OSError as error:
                    self.problem = f"no fast engine: {error}"
        return self.problem

    def _load(self) -> ctypes.CDLL:
        try:
            library = ctypes.CDLL(str(self._target))  # not PyDLL: the GIL is free for as long as a call lasts
        except OSError:
            self._target.unlink(missing_ok=True)  # the power may have gone as it was made: the next run compiles anew
            raise
        library.makemore_advance.argtypes = [
            ctypes.POINTER(_Net), ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p,
        ]  # fmt: skip
        library.makemore_advance.restype = None
        return library

    def _finish(self) -> None:
        if self._compiler is not None:
            _, said = self._compiler.communicate()
            failed, self._compiler = self._compiler.returncode, None
            if failed:
                lines = said.decode(errors="replace").strip().splitlines()
                why = next((line for line in lines if "error" in line), lines[0] if lines else "it said nothing")
                raise OSError(f"the C compiler failed: {why}")
        if not _sound(self._target):
            try:
                kernels = self._made.read_bytes()
            except FileNotFoundError:  # another process that had it made too may have finished in this moment
                if _sound(self._target):
                    return
                raise
            fd, part = tempfile.mkstemp(".part", dir=self._target.parent)  # others may finish at the same moment
            with open(fd, "wb") as file:
                file.write(kernels + hashlib.sha256(kernels).digest())
            os.replace(part, self._target)
        self._made.unlink(missing_ok=True)


@functools.cache
def build() -> Build:
    """This process's build, started by the first call."""
    return Build()


def _sweep(folder: Path) -> None:
    """Remove what compilers and programs that were killed have left."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def _compiler() -> list[str] | None:
    """The words that call a C compiler: $CC, or the first of cc, gcc, clang."""
    for words in (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]):
        found = shutil.which(words[0]) if words else None
        if found:
            return [found, *words[1:]]
    return None


def _native() -> str:
    return "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"


def _key(command: list[str]) -> str:
    """Names what the kernels are compiled from, with what, and for which processor."""
    compiler = os.stat(os.path.realpath(command[0]))
    parts = [*command, str(compiler.st_size), str(compiler.st_mtime_ns), platform.machine(), platform.processor()]
    try:
        cpu = Path("/proc/cpuinfo").read_text()
        parts += [line for line in cpu.split("\n\n")[0].splitlines() if line.startswith(("flags", "Features", "model"))]
    except OSError:
        parts.append(platform.version())
    return hashlib.sha256(SOURCE.read_bytes() + "\0".join(parts).encode()).hexdigest()[:24]


def _cache() -> Path:
    """A folder for compiled kernels that nobody else can write to."""
    home, shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache", tempfile.gettempdir()
    for base, name in ((home, "makemore-studio"), (shared, f"makemore-studio-{os.getuid()}")):
        with contextlib.suppress(OSError, RuntimeError):  # no such home, or one that cannot be written to
            folder = Path(base).expanduser() / name
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _private(folder) and os.access(folder, os.W_OK | os.X_OK):
                return folder
    return Path(tempfile.mkdtemp(prefix="makemore-studio-"))


def _private(path: Path) -> bool:
    info = path.lstat()  # a link could be led elsewhere afterwards
    return info.st_uid == os.getuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sound(kernels: Path) -> bool:
    """Whether the file is ours and whole, by the checksum at its end: loading a torn one would kill the process."""
    if not kernels.exists() or not _private(kernels):
        return False
    content = kernels.read_bytes()
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


_Address = ctypes.c_void_p


class _Param(ctypes.Structure):
    _fields_ = (
        ("data", _Address), ("grad", _Address), ("before", _Address), ("first", _Address), ("second", _Address),
        ("size", ctypes.c_int64),
    )  # fmt: skip


class _Brick(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int64), ("fan_in", ctypes.c_int64), ("fan_out", ctypes.c_int64), ("groups", ctypes.c_int64),
        ("eps", ctypes.c_float), ("momentum", ctypes.c_float), ("slope", ctypes.c_float), ("unbiased", ctypes.c_int32),
        ("weight", _Param), ("bias", _Param), ("running_mean", _Address), ("running_var", _Address),
        ("y", _Address), ("dy", _Address), ("xhat", _Address), ("rstd", _Address), ("skip", _Address),
        ("also", _Address),
    )  # fmt: skip


class _Optimizer(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int64), ("t", ctypes.c_int64), ("momentum", ctypes.c_double), ("beta1", ctypes.c_double),
        ("beta2", ctypes.c_double), ("eps", ctypes.c_double), ("weight_decay", ctypes.c_double),
    )  # fmt: skip


class _Net(ctypes.Structure):
    _fields_ = (
        ("batch", ctypes.c_int64), ("bricks", ctypes.c_int64), ("block_size", ctypes.c_int64),
        ("n_embd", ctypes.c_int64), ("vocabulary", ctypes.c_int64), ("X", _Address), ("Y", _Address),
        ("embedding", _Param), ("y", _Address), ("dy", _Address), ("panels", _Address), ("rows", _Address),
        ("packed", _Address), ("brick", ctypes.POINTER(_Brick)), ("optimizer", _Optimizer),
    )  # fmt: skip


class FastEngine:
    """An `Engine` over the compiled kernels: float32 on the CPU, every option of the configuration.

    Raises ValueError, in one line, where the kernels cannot be had.
    """

    name = "fast"
    fixed = frozenset({"norm_momentum"})

    def __init__(self, model: Model, optimizer: Optimizer, train: Split) -> None:
        self._library = build().library()
        self.model, self.optimizer, self.train = model, optimizer, train
        tensors = [*model.parameters(), *model.buffers(), *(slot for slots in optimizer.state for slot in slots)]
        for tensor in tensors:
            if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise ValueError(f"no fast engine: it needs contiguous float32 on the CPU, not {tensor.dtype}")
        self._x, self._y = train.x.contiguous(), train.y.contiguous()
        self._grads = [torch.zeros_like(p) for p in model.parameters()]
        self._before = [torch.zeros_like(p) for p in model.parameters()]
        self._batch = 0
        self._net = _Net()

    def advance(self, batches: Tensor, rates: list[float], tap: bool) -> Tensor:
        assert batches.dtype == torch.int64
        n, batch = batches.shape
        if batch != self._batch:
            self._lay_out(batch)
        config = self.optimizer.config
        self._net.optimizer = _Optimizer(
            RULES.index(config.optimizer), self.optimizer.count, config.momentum, config.beta1, config.beta2,
            config.optimizer_eps, config.weight_decay,
        )  # fmt: skip
        batches, lrs, losses = batches.contiguous(), torch.tensor(rates, dtype=torch.float64), torch.empty(n)
        self._library.makemore_advance(
            ctypes.byref(self._net), n, batches.data_ptr(), lrs.data_ptr(), tap, losses.data_ptr()
        )
        self.optimizer.count += n
        return losses

    def taps(self) -> Taps:
        """Views of the engine's own memory: good until the next `advance`."""
        outs = [self._rows(out) for out in self._outs]
        return Taps(outs, [self._rows(gradient) for gradient in self._gradients], self._grads, self._before)

    def _rows(self, block: Tensor) -> Tensor:
        """(chunks, F, LANES) as the kernels keep it -> (B, F)."""
        return block.transpose(1, 2).reshape(-1, block.shape[1])[: self._batch]

    def _lay_out(self, batch: int) -> None:
        """Write the net down as the kernels read it, with room for minibatches of this size."""
        self._batch, self._chunks = batch, -(-batch // LANES)
        self._room: list[Tensor] = []  # keeps alive what the kernels point to
        self._outs: list[Tensor] = []
        self._gradients: list[Tensor] = []
        weight = self.model.embedding.weight
        width = self.train.x.shape[1] * weight.shape[1]
        bricks = self._bricks(width)
        widest = max(brick.fan_out for brick in bricks)
        net = self._net
        net.batch, net.bricks, net.block_size = batch, len(bricks), self.train.x.shape[1]
        net.vocabulary, net.n_embd = weight.shape
        net.X, net.Y = self._x.data_ptr(), self._y.data_ptr()
        net.embedding = self._param(weight)
        net.y, net.dy = self._input.data_ptr(), self._input_gradient.data_ptr()
        net.panels = self._new((widest + PANEL) * self._chunks * LANES).data_ptr()
        net.rows = self._new(MANY * GRAD_ROWS * widest).data_ptr()
        net.packed = self._new(max(brick.weight.size for brick in bricks) if self._chunks >= MANY else 0).data_ptr()
        net.brick = (_Brick * len(bricks))(*bricks)

    def _bricks(self, width: int) -> list[_Brick]:
        """The net as a flat list; a residual connection becomes an addition behind its bricks."""
        self._input, self._input_gradient = self._block(width), self._block(width)
        x, bricks = self._input, list[_Brick]()
        for layer in self.model.layers:
            start, skip = len(bricks), x
            for leaf in layer.leaves():
                x, brick = self._brick(leaf, x)
                bricks.append(brick)
            if isinstance(layer, Residual):
                x, gradient = self._block(x.shape[1]), self._block(x.shape[1])
                bricks.append(_Brick(kind=ADD, fan_in=x.shape[1], fan_out=x.shape[1], y=x.data_ptr()))
                bricks[-1].dy, bricks[-1].skip = gradient.data_ptr(), skip.data_ptr()
                bricks[start].also = gradient.data_ptr()
        return bricks

    def _brick(self, leaf: Brick, x: Tensor) -> tuple[Tensor, _Brick]:
        fan_in = x.shape[1]
        fan_out = leaf.weight.shape[1] if isinstance(leaf, Linear) else fan_in
        y, dy = self._block(fan_out), self._block(fan_out)
        self._outs.append(y)
        self._gradients.append(dy)
        kind = next(i for i, brick in enumerate(KINDS) if isinstance(leaf, brick))
        brick = _Brick(kind=kind, fan_in=fan_in, fan_out=fan_out, y=y.data_ptr(), dy=dy.data_ptr())
        if isinstance(leaf, Linear):
            brick.weight = self._param(leaf.weight)
            if leaf.bias is not None:
                brick.bias = self._param(leaf.bias)
        elif isinstance(leaf, Norm):
            brick.weight, brick.bias, brick.eps = self._param(leaf.gamma), self._param(leaf.beta), leaf.eps
            brick.xhat = self._block(fan_out).data_ptr()
        if isinstance(leaf, BatchNorm1d):
            brick.momentum, brick.unbiased = leaf.momentum, leaf.unbiased
            brick.running_mean, brick.running_var = leaf.running_mean.data_ptr(), leaf.running_var.data_ptr()
            brick.rstd = self._new(fan_out).data_ptr()
        elif isinstance(leaf, GroupNorm):
            brick.groups, brick.rstd = leaf.num_groups, self._block(leaf.num_groups).data_ptr()
        elif isinstance(leaf, LeakyReLU):
            brick.slope = leaf.negative_slope
        return y, brick

    def _param(self, tensor: Tensor) -> _Param:
        position = next(i for i, parameter in enumerate(self.model.parameters()) if parameter is tensor)
        slots = [slot.data_ptr() for slot in self.optimizer.state[position]] + [None, None]
        grad, before = self._grads[position].data_ptr(), self._before[position].data_ptr()
        return _Param(tensor.data_ptr(), grad, before, slots[0], slots[1], tensor.numel())

    def _block(self, features: int) -> Tensor:
        return self._new(self._chunks * features * LANES).view(self._chunks, features, LANES)

    def _new(self, size: int) -> Tensor:
        """Zeros that start on a cache line."""
        room = torch.zeros(size + ALIGN)
        offset = -(room.data_ptr() // 4) % ALIGN
        self._room.append(room)
        return room[offset : offset + size]
