"""`makemore bench`: what this build is worth on this machine, training speeds as ratios against a reference.

Speeds of a shared machine wander by a factor of two; ratios of two sides that take turns do not. So nothing here is a
number of steps a second alone. What the whole program costs beside training is in seconds and bytes. Each figure comes
with its spread, but for what is measured once: a whole run, the growth of memory, the bytes of a paused view.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait

import msgspec
import torch

from makemore_core import baselines, dataset, fast, livebench
from makemore_core.baselines import Jax, Modules, Notebook, OneLayer, Shape
from makemore_core.command import Channel, Pause, Step, Stop
from makemore_core.config import Config
from makemore_core.dataset import Dataset, Split
from makemore_core.engine import Engine, ManualEngine, PlainEngine
from makemore_core.fast import FastEngine
from makemore_core.figures import FULL, QUICK, Asked, Effort, Figure, Report, compare, row
from makemore_core.graph import GraphEngine
from makemore_core.model import build
from makemore_core.optim import Optimizer
from makemore_core.presets import preset
from makemore_core.session import Session
from makemore_core.turns import Stopwatch, take_turns
from makemore_core.watch import Watch

WARM_UP = 40_000  # steps of a session until its looking has settled into its budget


def run(quick: bool, json: bool) -> int:
    """Measure and print; the exit status. A table as it comes in, or one JSON object."""
    torch.set_num_threads(1)
    effort = QUICK if quick else FULL
    about, figures, notes = machine(), list[Figure](), list[str]()
    if not json:
        print("  ".join(f"{key} {value}" for key, value in about.items()))
        print("medians [quartiles]; the sides of a ratio take turns, but for a whole run; one thread\n", flush=True)
    for found in measure(effort, notes):
        figures.append(found)
        if not json:
            print(row(found), flush=True)
    if json:
        print(msgspec.json.encode(Report(about, figures, notes)).decode())
    else:
        print("".join(f"\nnot measured: {note}" for note in notes))
    return 0


def machine() -> dict[str, str | int]:
    """What the figures were taken on."""
    about: dict[str, str | int] = {"cpu": _cpu(), "cores": os.cpu_count() or 0, "system": platform.platform(terse=True)}
    about |= {"python": platform.python_version(), "torch": str(torch.__version__)}
    about |= {"load": f"{os.getloadavg()[0]:.2f}"}
    return about | {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure(effort: Effort, notes: list[str]) -> Iterator[Figure]:
    """All figures, as they come in; what cannot be measured here is added to the notes, in one line each."""
    data = dataset.read()
    missing = fast.build().missing()
    if missing:
        notes.append(missing)
        yield from _cuda(data, effort, notes)
        return
    yield from _six_layers(data, effort, notes)
    yield from _other_nets(data, effort)
    yield from _whole_run(data, effort)
    yield from _diagnostics(data, effort)
    yield from _cuda(data, effort, notes)
    yield from livebench.measure(effort, notes)


# ---- engines and baselines


def shape_of(config: Config, vocabulary: int) -> Shape:
    """The net of a configuration with BatchNorm, in the baselines' words."""
    return Shape(
        config.n_layer, config.n_hidden, config.batch_size, config.norm_output, vocabulary, config.n_embd,
        config.block_size,
    )  # fmt: skip


def engine(kind: type[PlainEngine] | type[ManualEngine] | type[FastEngine], config: Config, data: Dataset) -> Stopwatch:
    """A stopwatch for an engine; drawing the minibatches is part of the time."""
    train = data.examples(data.train, config.block_size)
    generator = torch.Generator().manual_seed(config.seed)
    model = build(config, data.vocabulary, generator)
    trained: Engine = kind(model, Optimizer(config, model.parameters()), train)

    def advance(steps: int) -> float:
        began = time.perf_counter()
        for n in [256] * (steps // 256) + [steps % 256] * (steps % 256 > 0):
            batches = torch.randint(0, len(train.y), (n, config.batch_size), generator=generator)
            trained.advance(batches, [config.lr] * n, False)
        return time.perf_counter() - began

    return advance


def baseline(loop: Notebook | OneLayer | Modules) -> Stopwatch:
    """A stopwatch for a baseline of this process."""
    return lambda steps: baselines.stopwatch(loop, steps)


def _six_layers(data: Dataset, effort: Effort, notes: list[str]) -> Iterator[Figure]:
    """The main case: every engine and every baseline in the same rounds."""
    config = Config(steps=10**9, engine="fast")
    shape, train = shape_of(config, data.vocabulary), data.examples(data.train, config.block_size)
    watched = Driven(config, data, Watch())
    sides = {
        "notebook": baseline(Notebook(shape, train)),
        "notebook with statistics": baseline(Notebook(shape, train, statistics=True)),
        "nn.Module + optim.SGD": baseline(Modules(shape, train)),
        "plain engine": engine(PlainEngine, config, data),
        "manual engine": engine(ManualEngine, config, data),
        "fast engine": engine(FastEngine, config, data),
        "fast engine, live diagnostics": watched.time,
    }
    jax = None
    try:
        jax = Jax(shape, train)
        sides[f"jax {jax.version} lax.scan"] = jax.time
    except (ValueError, OSError) as error:
        notes.append(f"jax lax.scan: {error}")
    speeds = take_turns(sides, effort)
    watched.close()
    title = "six layers, batch 32"
    live = "fast engine, live diagnostics"
    yield compare(f"{title}: {live} / notebook", speeds, live, "notebook", Asked(5, 7))
    if jax is not None:
        reference = f"jax {jax.version} lax.scan"
        jax.close()
        yield compare(f"{title}: fast engine / {reference}", speeds, "fast engine", reference, Asked(0.75, 1))
        yield compare(f"{title}: {live} / {reference}", speeds, live, reference)
        yield compare(f"{title}: {reference} / notebook", speeds, reference, "notebook")
    for side in sides:
        if side not in ("notebook", live) and not side.startswith("jax"):
            yield compare(f"{title}: {side} / notebook", speeds, side, "notebook")


def _other_nets(data: Dataset, effort: Effort) -> Iterator[Figure]:
    one_layer = preset("mlp-batchnorm").config()
    train = data.examples(data.train, one_layer.block_size)
    cases: list[tuple[str, Config, Callable[[Shape, Split], Notebook | OneLayer]]] = [
        ("mlp-batchnorm, batch 32", one_layer, OneLayer),
        ("fifty layers, batch 32", preset("fifty-layers-batchnorm").config(), Notebook),
        ("six layers of 1024, batch 1024", Config(n_hidden=1024, batch_size=1024), Notebook),
    ]
    for title, config, notebook in cases:
        shape = shape_of(config, data.vocabulary)
        sides = {
            "notebook": baseline(notebook(shape, train)),
            "nn.Module + optim.SGD": baseline(Modules(shape, train)),
            "fast engine": engine(FastEngine, config, data),
        }
        speeds = take_turns(sides, effort)
        yield compare(f"{title}: fast engine / notebook", speeds, "fast engine", "notebook")
        yield compare(f"{title}: fast engine / nn.Module + optim.SGD", speeds, "fast engine", "nn.Module + optim.SGD")


def _whole_run(data: Dataset, effort: Effort) -> Iterator[Figure]:
    """A preset from its first update to its last, once: the session with all it does besides, and the notebook."""
    if effort == QUICK:
        return
    config = preset("mlp-batchnorm").config().replace({"engine": "fast"})
    notebook = OneLayer(shape_of(config, data.vocabulary), data.examples(data.train, config.block_size))
    theirs = baselines.stopwatch(notebook, config.steps)
    session = Session(config, data, Channel())
    began = time.perf_counter()
    session.run()
    speeds = {"whole run": [config.steps / (time.perf_counter() - began)], "notebook": [config.steps / theirs]}
    name = f"mlp-batchnorm, all {config.steps:,} steps: live diagnostics / notebook"
    yield compare(name, speeds, "whole run", "notebook", Asked(4, 8))


def _diagnostics(data: Dataset, effort: Effort) -> Iterator[Figure]:
    """A whole session with everything that is looked at, against one that looks at nothing."""
    config = Config(steps=10**9, engine="fast")
    sides = {"with": Driven(config, data, Watch()), "without": Driven(config, data, Watch(10**9, budget=1e-9))}
    for driven in sides.values():
        driven.time(WARM_UP)  # the first survey and the first names come soon, on credit
    longer = Effort(2 * effort.turn, 2 * effort.rounds)
    speeds = take_turns({name: driven.time for name, driven in sides.items()}, longer)
    for driven in sides.values():
        driven.close()
    name = "six layers, batch 32: with diagnostics / without"
    yield compare(name, speeds, "with", "without", Asked(0.97, 0.99))


class Driven:
    """A session in a thread of its own, as headless training has it, that runs only while it is timed."""

    def __init__(self, config: Config, data: Dataset, watch: Watch) -> None:
        self._channel = Channel()
        self._session = Session(config, data, self._channel, watch=watch)
        self._channel.send(Pause())
        threading.Thread(target=self._session.run, daemon=True).start()
        self._wait()

    def time(self, steps: int) -> float:
        """Seconds for so many updates, with what the session does besides; its snapshots are taken in."""
        goal = self._session.trainer.step + steps
        began = time.perf_counter()
        self._channel.send(Step(steps))
        while self._session.trainer.step < goal or self._session.state == "running":
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        self._wait()
        self._channel.drain()
        return seconds

    def _wait(self) -> None:
        """Until the net waits and has been looked at in full, which is not to slow the other side."""
        while not (self._session.state == "paused" and self._seen_whole()):
            time.sleep(0.002)

    def _seen_whole(self) -> bool:
        seen = self._session.net.seen
        return seen.splits is not None and seen.splits.step == seen.names_step == self._session.trainer.step

    def close(self) -> None:
        """End the run."""
        self._channel.send(Stop())


# ---- a GPU, where there is one


def _cuda(data: Dataset, effort: Effort, notes: list[str]) -> Iterator[Figure]:
    """The graph engine, with torch's kernels and with the fused ones, against eager modules on the same GPU."""
    if not torch.cuda.is_available():
        notes.append("CUDA graph engine: no GPU that torch can use here")
        return
    config = Config()
    train = data.examples(data.train, config.block_size)
    train = Split(train.x.cuda(), train.y.cuda())
    modules = Modules(shape_of(config, data.vocabulary), train, "cuda")

    def eager(n: int) -> float:
        began = time.perf_counter()
        modules.run(n)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    def graphed(fuse: bool) -> tuple[GraphEngine, Stopwatch]:
        model = build(config, data.vocabulary, torch.Generator().manual_seed(config.seed)).to(torch.device("cuda"))
        engine = GraphEngine(model, Optimizer(config, model.parameters()), train, fuse=fuse)

        def run(n: int) -> float:
            began = time.perf_counter()
            for size in [1024] * (n // 1024) + [n % 1024] * (n % 1024 > 0):
                batches = torch.randint(0, len(train.y), (size, config.batch_size), device="cuda")
                engine.advance(batches, [config.lr] * size, False)
            torch.cuda.synchronize()
            return time.perf_counter() - began

        return engine, run

    sides: dict[str, Stopwatch] = {"eager": eager}
    try:
        sides["torch's kernels"] = graphed(fuse=False)[1]
        engine, sides["graph"] = graphed(fuse=True)
    except ValueError as error:
        notes.append(f"CUDA: {error}")
        return
    wait([engine.compiling] if engine.compiling else [])
    speeds = take_turns(sides, effort)
    if engine.problem:
        notes.append(f"CUDA: {engine.problem}")
    case = "six layers, batch 32, CUDA"
    yield compare(f"{case}: graph engine / eager nn.Module", speeds, "graph", "eager", Asked(8, 20))
    yield compare(f"{case}: graph engine with torch's kernels / eager nn.Module", speeds, "torch's kernels", "eager")
