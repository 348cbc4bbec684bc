"""The facts of a machine that ratios may depend on: no name, no path."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from embedder import processor
from index.threads import cores

LIBRARIES = ("torch", "timm", "torchvision", "numpy", "faiss-cpu", "faiss-gpu-cu12", "scikit-learn")


def facts() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {
        "processor": processor.field("model name") or platform.machine(),
        "cores": str(cores()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "Python": platform.python_version(),
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 numbers itself."""
    return bool({"amx_bf16", "avx512_bf16"} & set(processor.field("flags").split()))
