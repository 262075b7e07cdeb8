"""A net, its data, its optimiser and its engine: everything that an update needs, and nothing that looks at it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from makemore_core.config import LIVE_FIELDS, LIVE_IF_ASKED_FIELDS, Config
from makemore_core.dataset import Dataset, Distinct, Split, distinct
from makemore_core.diagnostics import Probe, probe
from makemore_core.engine import Engine, ManualEngine, PlainEngine
from makemore_core.fast import FastEngine
from makemore_core.fast import build as fast_build
from makemore_core.graph import GraphEngine
from makemore_core.layers import BatchNorm1d
from makemore_core.memory import find_room
from makemore_core.model import adapt, build
from makemore_core.optim import Optimizer

BLOCK = 64  # updates whose minibatches a GPU draws at once
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, so that seeds side by side share no blocks


def _examples(dataset: Dataset, items: tuple[str, ...], block_size: int, device: torch.device) -> Split:
    split = dataset.examples(items, block_size)
    return Split(split.x.to(device), split.y.to(device))


@functools.lru_cache(4)  # both splits of a run and of its twin: a restart need not make them anew
def _prepared(
    dataset: Dataset, items: tuple[str, ...], block_size: int, device: torch.device
) -> tuple[Split, Distinct]:
    examples = sum(map(len, items)) + len(items)
    find_room(8 * examples * (2 * block_size + 7))  # as measured: the contexts twice, and five more numbers each
    split = _examples(dataset, items, block_size, device)
    return split, distinct(split)


class Trainer:
    """`step` counts the updates done. The net, the minibatches and the optimiser follow from the config's seed."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.config = config
        self.dataset = dataset
        self.device, self._no_device = pick_device(config.device)
        # The net is too small for threads: with two, runs fell to a hundredth of their speed.
        torch.set_num_threads(1)
        where = config.block_size, self.device
        self.train, self.train_contexts = _prepared(dataset, dataset.train, *where)
        self.val, self.val_contexts = _prepared(dataset, dataset.val, *where)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = build(config, dataset.vocabulary, self.generator).to(self.device)
        self.optimizer = Optimizer(config, self.model.parameters())
        self.engine: Engine = self.make_engine()
        self.step = 0

    def split(self, items: tuple[str, ...]) -> Split:
        """The examples of some items, where the net is."""
        return _examples(self.dataset, items, self.config.block_size, self.device)

    def make_engine(self) -> Engine:
        """The engine that the config asks for, over this trainer's tensors; `auto` starts with the plain one."""
        self._fast_refused = ""  # why, where it was
        if self.config.engine == "manual":
            return ManualEngine(self.model, self.optimizer, self.train)
        plain = PlainEngine(self.model, self.optimizer, self.train)
        return self._fast_or(plain) if self._fast_ready(wait=self.config.engine == "fast") else plain

    def _fast_ready(self, wait: bool) -> bool:
        """Whether the fast engine can take over now; the first question starts the compiler."""
        wanted = self.config.engine in ("auto", "fast") and not self._fast_refused
        return wanted and (self.device.type == "cuda" or wait or fast_build().ready())

    def _fast_or(self, engine: Engine) -> Engine:
        """The fast engine; `engine` where it refuses this net."""
        try:
            return self._fast_kind(self.model, self.optimizer, self.train)
        except ValueError as error:
            self._fast_refused = str(error)
            return engine

    @property
    def _fast_kind(self) -> type[FastEngine | GraphEngine]:
        return GraphEngine if self.device.type == "cuda" else FastEngine

    @property
    def notice(self) -> str:
        """One line for people: why a device or an engine that was asked for is not used; empty where all is well."""
        slower = self.engine.problem if isinstance(self.engine, GraphEngine) else ""
        return "; ".join(filter(None, (self._no_device, self._fast_refused, slower)))

    def draw(self, n: int) -> Tensor:
        """The next `n` minibatches (n, B) of indices of training examples; as drawing them one by one."""
        return self.minibatches(self.generator, self.step, n, self.config.batch_size)

    def minibatches(self, generator: torch.Generator, step: int, n: int, size: int) -> Tensor:
        """Indices (n, size) of training examples, where the net is: the next ones of the generator.

        On a GPU they are drawn there, and follow from the seed and the `step` from which on they are used.
        """
        if self.device.type == "cpu":
            return torch.randint(0, len(self.train.y), (n, size), generator=generator)
        return drawn_in_blocks(self.device, self.config.seed, step, (n, size), len(self.train.y))

    def advance(self, n: int, tap: bool = False, *, batches: Tensor | None = None) -> list[float]:
        """`n` (at least 1) updates; returns their losses. With `tap` the last one can be probed.

        `batches` (n, B) stand in for this trainer's own, for a net that is to see what another one sees.
        """
        if self.engine.name == "plain" and self._fast_ready(wait=False):
            self.engine = self._fast_or(self.engine)
        batches = self.draw(n) if batches is None else batches
        rates = [self.config.lr_at(step) for step in range(self.step, self.step + n)]
        losses: list[float] = self.engine.advance(batches.to(self.device), rates, tap).tolist()
        self.step += n
        return losses

    def probe(self, dead: dict[int, int]) -> Probe:
        """What the last update, run with `tap`, looked like."""
        return probe(self.model, self.engine.taps(), dead)

    def reconfigure(self, config: Config) -> None:
        """Go on with other settings on the weights as they are. Raises ValueError where they need a new net.

        The optimiser keeps its state where it stays the same and a change has left all weights what they were.
        """
        changed = self.config.changes_to(config).keys()
        for name in sorted(changed - LIVE_FIELDS - LIVE_IF_ASKED_FIELDS):
            raise ValueError(f"{name}: cannot be changed on a net that is there already; restart the run")
        if changed & (LIVE_IF_ASKED_FIELDS - {"optimizer"}):
            self.model = adapt(self.model, self.config, config)
        if changed & LIVE_IF_ASKED_FIELDS:
            before, self.optimizer = self.optimizer, Optimizer(config, self.model.parameters())
            if "optimizer" not in changed and _same(before.parameters, self.optimizer.parameters):
                self.optimizer.state, self.optimizer.count = before.state, before.count
        self.config = self.optimizer.config = config
        for leaf in self.model.leaves():
            if isinstance(leaf, BatchNorm1d):
                leaf.momentum = config.norm_momentum
        # what was refused may be possible now; an engine that need not be made anew keeps what there is to look at
        fixed = self._fast_kind.fixed if self._fast_refused else self.engine.fixed
        if changed - LIVE_FIELDS or changed & fixed:
            self.engine = self.make_engine()

    def tensors(self) -> dict[str, Tensor]:
        """All that a later trainer needs to go on bit for bit, by name: net, optimiser and generator."""
        state = {name: tensor.detach().cpu() for name, tensor in self.model.named_tensors()}
        for position, slots in enumerate(self.optimizer.state):
            for slot, tensor in enumerate(slots):
                state[f"optimizer.{position}.{slot}"] = tensor.cpu()
        state["generator"] = self.generator.get_state()
        return state

    def restore(self, tensors: dict[str, Tensor], step: int, count: int) -> None:
        """Go on where `tensors` were taken. Raises ValueError where they belong to another net."""
        own = dict(self.model.named_tensors())
        for position, slots in enumerate(self.optimizer.state):
            own |= {f"optimizer.{position}.{slot}": tensor for slot, tensor in enumerate(slots)}
        wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "generator"}
        if wanted != given or "generator" not in tensors:
            raise ValueError("the checkpoint belongs to another net: names or shapes of its tensors differ")
        try:
            self.generator.set_state(tensors["generator"])
        except (RuntimeError, TypeError):
            raise ValueError("the checkpoint's generator is none of this version of torch") from None
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.step, self.optimizer.count = step, count


def _same(before: list[Tensor], after: list[Tensor]) -> bool:
    return len(before) == len(after) and all(map(torch.equal, before, after))


def drawn_in_blocks(device: torch.device, seed: int, step: int, shape: tuple[int, int], examples: int) -> Tensor:
    """Indices of examples (n, B) for the updates from `step` on, the same however many are drawn at once.

    What a GPU draws depends on how many numbers come in one call. So whole blocks of updates are drawn, each with a
    seed of its own, and what is not asked for is dropped.
    """
    n, size = shape
    generator, first = torch.Generator(device), step // BLOCK
    blocks = []
    for block in range(first, (step + n - 1) // BLOCK + 1):
        generator.manual_seed((seed + block * GOLDEN) % 2**64)
        blocks.append(torch.randint(0, examples, (BLOCK, size), generator=generator, device=device))
    return torch.cat(blocks)[step - first * BLOCK :][:n]


def pick_device(name: str) -> tuple[torch.device, str]:
    """The device to train on, and one line where it is not the one that was asked for.

    `auto` is the CPU: a net this small is slower on a GPU unless its steps are captured in a graph.
    """
    if name == "cuda" and not torch.cuda.is_available():
        return torch.device("cpu"), "no GPU that torch can use on this machine: training on the CPU"
    return torch.device("cuda" if name == "cuda" else "cpu"), ""
