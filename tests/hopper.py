"""Compiles the fused kernels for a Hopper GPU where there is none: `python -m tests.hopper` prints a line for each.

As a thread of the engine does it, from shapes alone; what is launched later has to be found among them.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from makemore_core import kernels
from makemore_core.config import Config
from makemore_core.dataset import Split, embedded_names, read
from makemore_core.fused import Fused, prepare
from makemore_core.graph import rows
from makemore_core.model import build

CONFIGS = ({}, {"norm": "none", "nonlinearity": "elu"}, {"residual": True, "batch_size": 128, "norm_place": "after"},
           {"batch_size": 33, "block_size": 1, "n_embd": 1, "n_layer": 1})  # fmt: skip


class Hopper:
    """Stands in for Triton's driver."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compiled() -> dict[Any, Any]:
    """What there is by now, by what it is looked up with."""
    made = (kernels.forward, kernels.backward, kernels.cross_entropy, kernels.embedding)
    return {(kernel.fn, key): found for kernel in made for key, found in kernel.device_caches[0][0].items()}


def tell(kernel: Any) -> None:
    """Registers and spills, as ptxas, which triton brings, has them."""
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        command = [str(assembler), "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.findall(r"Used (\d+) registers", told), re.findall(r"(\d+) bytes spill stores", told)
    print(kernel.name, *registers, "registers", *spilled, "bytes spilled")


if __name__ == "__main__":
    triton.runtime.driver.set_active(Hopper())
    dataset = read(embedded_names())
    for changes in CONFIGS:
        config = Config().replace(changes)
        model = build(config, dataset.vocabulary, torch.Generator().manual_seed(config.seed))
        train = dataset.examples(dataset.train[:100], config.block_size)
        shapes = model.clone().to(torch.device("meta"))
        Fused(shapes, Split(*(part.to("meta") for part in train))).compile(config.batch_size)
        before = compiled()
        for batch in rows(3, config.batch_size, train.x.device):
            Fused(model, train).gradients(batch, torch.empty(()), prepare)
        assert compiled().keys() == before.keys(), f"compiled once more for {changes}"
    for kernel in compiled().values():
        tell(kernel)
