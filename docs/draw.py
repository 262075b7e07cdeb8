"""Draws the pictures of the README and of these pages: real runs in the real studio. `python docs/draw.py [NAME …]`"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from app.studio import Studio
from makemore_core import dataset
from makemore_core.command import Channel, Stop
from makemore_core.config import pair
from makemore_core.presets import PRESETS, twin_changes
from makemore_core.session import Session
from makemore_core.watch import Watch

PICTURES = Path(__file__).parent / "pictures"
SIZE = (110, 34)
PATIENCE = 120.0  # seconds for a run to get somewhere


class Picture(NamedTuple):
    """A preset, the step to wait for, the keys to press then, and the exhibit to wait for. At step 1 the run pauses.

    `twin` is in what a second net in lock-step differs, `changed` what differs from the preset.
    """

    preset: str
    step: int = 3000
    keys: str = ""
    exhibit: str = ""
    size: tuple[int, int] = SIZE
    twin: str = ""
    changed: str = ""


ALL = {
    "studio": Picture("deep-batchnorm", 8000),
    "first-loss": Picture("mlp-original"),
    "saturation": Picture("mlp-softmax", 1, "5", "dead-map"),
    "kaiming": Picture("mlp-kaiming"),
    "batchnorm": Picture("mlp-batchnorm", 3000, "B", "batchnorm"),
    "gain": Picture("deep-tanh-gain1", 300, "i", "gain"),
    "linear": Picture("deep-linear-gain1", 1),
    "updates": Picture("mlp-kaiming", 1, "8", "find-lr"),
    "deep-batchnorm": Picture("deep-batchnorm-gain02"),
    "fifty-layers": Picture("fifty-layers-gain1", 1),
    "backprop": Picture("mlp-batchnorm", 300, "6", "backward", (110, 46), changed="bias=on"),
    "twin": Picture("deep-tanh", 1, "7", twin="gain=1"),
    "doctor": Picture("deep-tanh-gain3", 1000, "D"),
}


async def draw(name: str, picture: Picture) -> None:
    """Train, look, press, save; the run ends with the picture."""
    channel = Channel()
    config = PRESETS[picture.preset].config().replace(dict(map(pair, picture.changed.split())))
    twin = twin_changes(config, [picture.twin] if picture.twin else [])
    paused = picture.step == 1  # a net that has not learned anything yet
    watch = Watch(paused=paused)
    session = Session(config, dataset.read(), channel, name=name, preset=picture.preset, twin=twin, watch=watch)
    worker = threading.Thread(target=session.run, daemon=True)
    studio = Studio(channel, run=name, ascii=False, light=False, start=worker.start)
    async with studio.run_test(size=picture.size) as pilot:
        history = studio.history
        await until(lambda: history.snapshot is not None and history.snapshot.step >= picture.step)
        for key in picture.keys:
            await pilot.press(key)
        await until(lambda: not picture.exhibit or picture.exhibit in history.exhibits)
        if picture.keys:
            await pilot.press("right") if picture.exhibit == "dead-map" else None
        await asyncio.sleep(2.5)  # a moment of training on the screen
        studio.message_until = 0.0
        studio.tick()
        studio.paint()
        await pilot.pause()
        PICTURES.mkdir(exist_ok=True)
        title = f"makemore --preset {picture.preset}" + " --paused" * paused
        title += f" --twin {picture.twin}" * bool(picture.twin) + f" --set {picture.changed}" * bool(picture.changed)
        (PICTURES / f"{name}.svg").write_text(studio.export_screenshot(title=title))
    channel.send(Stop())
    await asyncio.to_thread(worker.join)


async def until(reached: Callable[[], bool]) -> None:
    """Wait for something to come about."""
    async with asyncio.timeout(PATIENCE):
        while not reached():
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ALL:
        asyncio.run(draw(chosen, ALL[chosen]))
        print(PICTURES / f"{chosen}.svg")
