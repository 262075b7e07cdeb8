"""Compiles the fused kernels for a Hopper GPU where there is none: `python -m tests.hopper` prints a line for each."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from makemore_core.config import Config
from makemore_core.dataset import embedded_names, read
from makemore_core.fused import Fused
from makemore_core.model import build

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {torch.float32: "*fp32", torch.int64: "*i64"}
CONFIGS = ({}, {"norm": "none", "nonlinearity": "elu"}, {"residual": True, "batch_size": 128, "norm_place": "after"})


def compile_only(kernel: Any, _programs: int, *, num_warps: int, **arguments: Any) -> None:
    """Stands in for a launch."""
    signature, constants = {}, {}
    for place, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=TARGET, options={"num_warps": num_warps})
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(made.asm["ptx"])
        file.flush()
        command = [str(assembler), "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.findall(r"Used (\d+) registers", told), re.findall(r"(\d+) bytes spill stores", told)
    print(kernel.__name__, *registers, "registers", *spilled, "bytes spilled")


if __name__ == "__main__":
    dataset = read(embedded_names())
    for changes in CONFIGS:
        config = Config().replace(changes)
        model = build(config, dataset.vocabulary, torch.Generator().manual_seed(config.seed))
        train = dataset.examples(dataset.train[:100], config.block_size)
        Fused(model, train).gradients(torch.arange(config.batch_size), torch.empty(()), compile_only)
