"""The compiled engine does what the plain one does, for every option, and refuses in one line where it cannot."""

from __future__ import annotations

import os
import platform
import stat
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from makemore_core import fast, trainer
from makemore_core.config import Config
from makemore_core.dataset import Dataset
from makemore_core.engine import Engine, PlainEngine
from makemore_core.fast import Build, FastEngine
from makemore_core.model import build
from makemore_core.optim import Optimizer
from makemore_core.trainer import Trainer

WORDS = (
    "anna",
    "ben",
    "clara",
    "dora",
    "emil",
    "frida",
    "gustav",
    "hanna",
    "ida",
    "jonas",
    "karl",
    "lena",
    "mila",
    "otto",
)
DATASET = Dataset("", "", WORDS, WORDS, WORDS, tuple(sorted(set("".join(WORDS)))))
SMALL = Config(n_layer=2, n_hidden=20, n_embd=5, batch_size=19, lr=0.1)
STEPS = 200

needs_compiler = pytest.mark.skipif(fast.build().missing() is not None, reason="no C compiler")


def engine(kind: type[PlainEngine] | type[FastEngine], config: Config) -> PlainEngine | FastEngine:
    torch.set_num_threads(1)
    model = build(config, DATASET.vocabulary, torch.Generator().manual_seed(config.seed))
    return kind(model, Optimizer(config, model.parameters()), DATASET.examples(DATASET.train, config.block_size))


def minibatches(config: Config, steps: int) -> Tensor:
    examples = sum(len(word) + 1 for word in WORDS)
    return torch.randint(0, examples, (steps, config.batch_size), generator=torch.Generator().manual_seed(1))


def run(trained: Engine, config: Config, steps: int, tap: bool = False) -> Tensor:
    return trained.advance(minibatches(config, steps), [config.lr_at(step) for step in range(steps)], tap)


def state(trained: PlainEngine | FastEngine) -> list[Tensor]:
    slots = [slot for slots in trained.optimizer.state for slot in slots]
    return [*trained.model.parameters(), *trained.model.buffers(), *slots]


NORMS: list[dict[str, str]] = [
    {"norm": "none"},
    {"norm": "none", "bias": "off"},
    {"norm": "batch"},
    {"norm": "batch", "norm_variance": "pytorch"},
    {"norm": "batch", "norm_place": "after"},
    {"norm": "layer"},
    {"norm": "layer", "norm_place": "after"},
    {"norm": "group", "norm_groups": "4"},
    {"norm": "group", "norm_groups": "4", "norm_place": "after", "bias": "on", "lr": "0.02"},
    {"norm": "batch", "norm_output": "off"},
]
NONLINEARITIES = [{"nonlinearity": name} for name in ("relu", "leaky_relu", "elu", "sigmoid", "identity")]
RESIDUALS = [{"residual": "on", "n_layer": "4", "norm": norm} for norm in ("none", "batch", "layer")]
FIRST_RESIDUAL = [{"residual": "on", "n_hidden": "15", "norm": "none", "optimizer": "adam", "lr": "0.001"}]
RULES = [
    {"optimizer": "momentum", "lr": "0.02"},
    {"optimizer": "rmsprop", "lr": "0.001"},
    {"optimizer": "adam", "lr": "0.001"},
    {"optimizer": "adamw", "lr": "0.001"},
    {"optimizer": "adamw", "lr": "0.001", "norm": "layer", "weight_decay": "0.3", "nonlinearity": "relu"},
]
CASES = [*NORMS, *NONLINEARITIES, *RESIDUALS, *FIRST_RESIDUAL, *RULES]


@needs_compiler
@pytest.mark.parametrize("changes", CASES, ids=lambda changes: "-".join(changes.values()))
def test_every_option_trains_as_the_plain_engine_does(changes: dict[str, str]) -> None:
    config = SMALL.replace(changes)
    plain, compiled = engine(PlainEngine, config), engine(FastEngine, config)
    torch.testing.assert_close(run(compiled, config, STEPS), run(plain, config, STEPS), rtol=2e-4, atol=2e-5)
    assert compiled.optimizer.count == plain.optimizer.count == STEPS
    for ours, reference in zip(state(compiled), state(plain), strict=True):
        torch.testing.assert_close(ours, reference, rtol=5e-3, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 1, "norm": "none"},
        {"batch_size": 32},
        {"batch_size": 33},
        {"batch_size": 100, "norm": "layer"},
        {"batch_size": 200, "n_hidden": 131},  # seven chunks, which are taken four at a time, and odd rows at both ends
        {"batch_size": 300, "n_hidden": 7, "n_embd": 1, "block_size": 1},
        {"n_hidden": 1, "norm": "none"},
        {"n_hidden": 7, "n_embd": 1, "block_size": 1},
        {"n_hidden": 131, "n_layer": 3, "block_size": 8},
    ],
    ids=str,
)
def test_every_shape_gives_the_taps_of_the_plain_engine(changes: dict[str, int | str]) -> None:
    config = SMALL.replace(changes)
    plain, compiled = engine(PlainEngine, config), engine(FastEngine, config)
    torch.testing.assert_close(run(compiled, config, 5, True), run(plain, config, 5, True), rtol=1e-4, atol=1e-5)
    for ours, reference in zip(compiled.taps(), plain.taps(), strict=True):
        assert len(ours) == len(reference)
        for a, b in zip(ours, reference, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()) + 1e-6)


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_bits_however_the_steps_are_grouped_and_whether_watched_or_not(optimizer: str) -> None:
    config = SMALL.replace({"optimizer": optimizer})
    at_once, one_by_one = engine(FastEngine, config), engine(FastEngine, config)
    losses = run(at_once, config, 20)
    singly = [one_by_one.advance(batch[None], [config.lr], tap=True) for batch in minibatches(config, 20)]
    assert torch.equal(losses, torch.cat(singly))
    assert all(torch.equal(a, b) for a, b in zip(state(at_once), state(one_by_one), strict=True))


@needs_compiler
def test_it_takes_over_from_the_plain_engine_between_two_steps() -> None:
    config = SMALL.replace({"optimizer": "adam", "lr": 0.01})
    swapped, plain = engine(PlainEngine, config), engine(PlainEngine, config)
    batches, rates = minibatches(config, 40), [config.lr] * 40
    first = swapped.advance(batches[:20], rates[:20], False)
    second = FastEngine(swapped.model, swapped.optimizer, swapped.train).advance(batches[20:], rates[20:], False)
    reference = plain.advance(batches, rates, False)
    torch.testing.assert_close(torch.cat([first, second]), reference, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_training_begins_plain_and_moves_on_without_losing_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        """A build that is asked three times until it is ready."""

        asked = 0

        def ready(self) -> bool:
            self.asked += 1
            return self.asked > 3

    late = Late()
    monkeypatch.setattr(trainer, "fast_build", lambda: late)
    moving, plain = (Trainer(SMALL.replace({"engine": engine}), DATASET) for engine in ("auto", "plain"))
    losses, engines = list[float](), []
    for n in (5, 1, 7, 20):
        losses += moving.advance(n)
        engines.append(moving.engine.name)
    assert engines == ["plain", "plain", "fast", "fast"]
    assert losses == pytest.approx(plain.advance(33), rel=1e-4, abs=1e-5)
    assert moving.step == plain.step == 33
    assert torch.equal(moving.generator.get_state(), plain.generator.get_state())


@pytest.mark.parametrize("wanted", ["auto", "fast"])
def test_without_a_compiler_training_stays_plain_and_says_so(
    wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    broken = Build()
    for module, name in ((trainer, "fast_build"), (fast, "build")):
        monkeypatch.setattr(module, name, lambda: broken)
    staying = Trainer(SMALL.replace({"engine": wanted}), DATASET)
    assert len(staying.advance(3)) == 3
    assert staying.engine.name == "plain"
    assert staying.notice == "no fast engine: no C compiler (cc, gcc or clang) on this machine"


@needs_compiler
def test_the_batch_size_may_change_on_the_way() -> None:
    config = SMALL
    plain, compiled = engine(PlainEngine, config), engine(FastEngine, config)
    for size in (19, 64, 5):
        batches = minibatches(config.replace({"batch_size": size}), 5)
        losses = [each.advance(batches, [0.1] * 5, True) for each in (compiled, plain)]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
        assert compiled.taps().outs[0].shape[0] == size


@needs_compiler
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_net_that_diverges_is_seen_to_diverge(norm: str) -> None:
    config = SMALL.replace({"lr": 1e6, "nonlinearity": "identity", "norm": norm, "norm_output": "off"})
    losses = [run(engine(kind, config), config, 12) for kind in (PlainEngine, FastEngine)]
    assert not losses[0].isfinite().all()
    assert losses[1].isfinite().tolist() == losses[0].isfinite().tolist()


@needs_compiler
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "leaky_relu", "elu", "sigmoid", "identity"])
def test_a_poisoned_weight_shows_where_it_would_in_torch(nonlinearity: str, poison: float) -> None:
    config = SMALL.replace({"nonlinearity": nonlinearity, "norm": "none"})
    outs = []
    for kind in (PlainEngine, FastEngine):
        trained = engine(kind, config)
        trained.model.leaves()[0].parameters()[0][0, 0] = poison
        loss = run(trained, config, 1, tap=True)
        outs.append([*trained.taps().outs, loss])
    for reference, ours in zip(*outs, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.fixture(scope="module", params=["native", "x86-64-v3", "x86-64"])
def vectors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The kernels for this processor, and for older ones with vectors of 8 and of 4 numbers."""
    if request.param == "native":
        return fast.build()
    flags = Path("/proc/cpuinfo").read_text().split() if platform.machine() == "x86_64" else []
    if "sse2" not in flags or (request.param.endswith("v3") and not {"avx2", "fma"} <= set(flags)):
        pytest.skip("another processor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(fast, "_native", lambda: f"-march={request.param}")
        return Build()


@needs_compiler
@pytest.mark.parametrize(("nonlinearity", "ulps"), [("tanh", 7), ("sigmoid", 3), ("elu", 3)])
def test_functions_are_right_to_a_few_units_in_the_last_place(
    vectors: Build, nonlinearity: str, ulps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "build", lambda: vectors)
    config = SMALL.replace({"nonlinearity": nonlinearity, "norm": "none", "n_layer": 1, "n_hidden": 16384})
    trained = engine(FastEngine, config)
    linear = trained.model.leaves()[0]
    linear.weight.zero_()
    linear.bias.copy_(torch.linspace(-9.0, 9.0, 16384))
    run(trained, config, 1, tap=True)
    into, out = trained.taps().outs[:2]
    function = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "elu": torch.nn.functional.elu}[nonlinearity]
    exact = function(into.double())
    unit = 2.0 ** (exact.abs().log2().floor() - 23)
    assert float(((out.double() - exact).abs() / unit).max()) <= ulps


@needs_compiler
def test_other_threads_run_while_it_trains() -> None:
    config = SMALL.replace({"n_hidden": 200, "batch_size": 64})
    trained = engine(FastEngine, config)
    batches = minibatches(config, 1500)
    over, counted = threading.Event(), 0
    worker = threading.Thread(target=lambda: (trained.advance(batches, [0.1] * 1500, False), over.set()))
    worker.start()
    while not over.is_set():
        counted += 1
    worker.join()
    assert counted > 1000


@pytest.fixture
def short_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that take no time to compile, for tests of what becomes of them."""
    source = tmp_path / "short.c"
    source.write_text("void makemore_advance(void) {}\n")
    monkeypatch.setattr(fast, "SOURCE", source)


@needs_compiler
@pytest.mark.usefixtures("short_source")
def test_the_second_start_finds_the_kernels_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, beside = Build(), Build()
    assert first.library()
    assert beside.library()
    again = Build()
    assert again.ready()
    assert again.library()
    (kernels,) = (tmp_path / "makemore-studio").iterdir()
    assert stat.S_IMODE(kernels.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(kernels.stat().st_mode) == 0o600
    kernels.chmod(0o777)  # somebody else may have written to it: compiled anew
    assert Build().library()
    assert stat.S_IMODE(kernels.stat().st_mode) == 0o600


@needs_compiler
@pytest.mark.usefixtures("short_source")
def test_of_two_first_starts_one_may_finish_while_the_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, beside = Build(), Build()
    for compiler in (first._compiler, beside._compiler):
        assert compiler is not None
        compiler.wait()
    sound = fast._sound

    def just_not_yet(target: Path) -> bool:
        found = sound(target)
        monkeypatch.setattr(fast, "_sound", sound)
        assert first.library()
        return found

    monkeypatch.setattr(fast, "_sound", just_not_yet)
    assert beside.missing() is None


@needs_compiler
@pytest.mark.usefixtures("short_source")
def test_two_first_starts_may_write_the_kernels_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, beside, replace = Build(), Build(), os.replace

    def meanwhile(written: str, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        assert beside.library()
        replace(written, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    assert first.missing() is None
    assert os.replace is replace


@needs_compiler
@pytest.mark.usefixtures("short_source")
def test_damaged_kernels_are_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, damaged = tmp_path / "sound", tmp_path / "damaged"
    monkeypatch.setenv("XDG_CACHE_HOME", str(sound))
    Build().library()
    (kernels,) = (sound / "makemore-studio").iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(damaged))
    (damaged / "makemore-studio").mkdir(parents=True)
    copy = damaged / "makemore-studio" / kernels.name
    copy.write_bytes(kernels.read_bytes()[:5000])
    copy.chmod(0o700)
    assert Build().missing() is None
    assert copy.read_bytes()[:5000] == kernels.read_bytes()[:5000]
    assert copy.stat().st_size == kernels.stat().st_size


@needs_compiler
@pytest.mark.usefixtures("short_source")
def test_kernels_that_cannot_be_loaded_are_compiled_anew_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    left = Build()
    assert left._compiler is not None
    left._compiler.wait()
    left._made.write_bytes(b"")  # as after a power cut
    assert left.missing() is not None
    assert Build().missing() is None


def test_without_a_home_the_kernels_have_one_folder_among_the_temporary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = fast._cache()
    assert (folder.parent, folder) == (tmp_path, fast._cache())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")  # by somebody else, who may lead it somewhere else again
    assert fast._cache() != folder


def test_no_compiler_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    broken = Build()
    assert broken.ready()
    assert broken.missing() == "no fast engine: no C compiler (cc, gcc or clang) on this machine"
    with pytest.raises(ValueError, match="no C compiler"):
        broken.library()


def test_a_compiler_that_fails_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho 'fast.c:1:1: error: no such option' >&2\nexit 1\n")
    script.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(script))
    broken = Build()
    assert broken.missing() == "no fast engine: the C compiler failed: fast.c:1:1: error: no such option"
    assert "\n" not in str(broken.missing())
    assert os.listdir(tmp_path / "makemore-studio") == []


@needs_compiler
@pytest.mark.usefixtures("short_source")
def test_a_compiler_that_outlives_its_program_has_not_worked_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    left = Build()
    assert left._compiler is not None
    assert left._compiler.wait() == 0
    again = Build()
    assert again._compiler is None  # nothing is compiled twice
    assert again.library()
    assert [file.suffix for file in (tmp_path / "makemore-studio").iterdir()] == [".so"]


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="others are not slowed by them")
def test_a_net_that_dies_is_not_slowed_by_numbers_next_to_0() -> None:
    config = SMALL.replace({"optimizer": "adamw", "weight_decay": 1.0, "lr": 0.5})
    fast_engine = engine(FastEngine, config)
    for parameter in fast_engine.model.parameters():
        parameter.fill_(1e-38)
    run(fast_engine, config, 3)
    assert not any(bool(((x != 0) & (x.abs() < 1e-38)).any()) for x in state(fast_engine))
    assert float(torch.tensor(1e-40) * 0.5) > 0, "what runs beside it counts them as ever"
