"""What a backbone costs: parameters, multiply-adds, activations, memory and latency at 224 px.

Operators are counted by ``torch.utils.flop_counter``. The definitions are in docs/profile.md.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from embedder import processor
from embedder.backbones import CANVAS, Backbone
from embedder.errors import BackboneError, WeightsError
from embedder.heap import give_back, keep_freed
from embedder.network import NetworkBackbone, choose_device
from embedder.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

WARM_UP = 2
"""Forward passes before the first that is timed."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Counts:
    """Of the features of one image; ``parameters`` are those that they depend on."""

    parameters: int
    multiply_adds: int
    activations: int


@dataclass(frozen=True)
class Profile:
    """One backbone on one device. A count that a backbone without a network lacks is None.

    ``parameters`` are those that the features depend on, ``parameters_built`` all of the module as
    published, with its classifier. Bytes of ``memory`` are those that the forward passes took
    beside the ``weights``, None where the system does not tell. Milliseconds are per image.
    """

    model: str
    checkpoint: str
    width: int
    parameters: int
    parameters_built: int
    multiply_adds: int | None
    activations: int | None
    weights_bytes: int
    memory_bytes: int | None
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    batch: int
    rounds: int
    device: str
    device_name: str
    threads: int
    versions: dict[str, str]


def measure(recipe: Recipe, device: str, batch: int, rounds: int) -> Profile:
    """Build the backbone, run it on noise of ``batch`` images, and count what it did.

    For honest memory figures nothing else should have run in this process. Raises as
    ``embedder.loading.load`` does.
    """
    row = recipe.backbone
    if row.library == "scikit-image":
        from embedder.loading import load

        module, backbone, chosen = None, load(recipe, device).backbone, "cpu"
    else:
        from embedder.weights import build

        chosen = choose_device(device)
        with _fetch_errors():
            module = build(recipe)
        backbone = NetworkBackbone(module, row, chosen, recipe.precision)
    if chosen == "cpu":
        keep_freed()  # as embed does
    with _run_errors(row.name, chosen, batch):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (batch, CANVAS, CANVAS, 3), np.uint8)
        memory, seconds = _run(lambda: backbone.embed(pixels), chosen, rounds)
        width = backbone.embed(pixels[:1]).shape[1]
        counts = _count(module, backbone)
    tensors = [] if module is None else [*module.parameters(), *module.buffers()]
    lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75)) * 1000 / batch
    return Profile(
        row.name, recipe.checkpoint, width, counts.parameters if counts else 0,
        sum(p.numel() for p in module.parameters()) if module else 0,
        counts.multiply_adds if counts else None, counts.activations if counts else None,
        sum(tensor.numel() * tensor.element_size() for tensor in tensors), memory,
        float(median), float(lower), float(upper), batch, rounds, chosen, device_name(chosen),
        torch.get_num_threads(), {name: version(name) for name in ("torch", "timm")},
    )  # fmt: skip


def _count(module: nn.Module | None, backbone: Backbone) -> Counts | None:
    blank = np.zeros((1, CANVAS, CANVAS, 3), np.uint8)
    return None if module is None else count(module, lambda: backbone.embed(blank))


def count(module: nn.Module, call: Callable[[], object]) -> Counts:
    """What ``call``, which runs ``module`` or a part of it, computes.

    A multiply-add is two of torch's floating-point operations; activations are the numbers that the
    same operators put out (I. Radosavovic et al., Designing network design spaces, CVPR 2020).
    Attention is computed by its definition meanwhile, from single matrix products: a fused kernel
    would hide some of them.
    """
    operations = FlopCounterMode(display=False)
    outputs = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(flop_registry, _size))
    touched = _Touched()
    with _unfused(), touched, outputs, operations:
        call()
    used = [p.numel() for p in module.parameters() if id(p) in touched.seen]
    return Counts(sum(used), operations.get_total_flops() // 2, outputs.get_total_flops())


def _size(*shapes: object, out_shape: tuple[int, ...], **options: object) -> int:
    """How many numbers an operator puts out, in the form of flop_counter's formulas."""
    return prod(out_shape)


class _Touched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers every tensor that an operator was given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        leaves = tree_leaves((args, kwargs))
        self.seen.update(id(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))
        return func(*args, **(kwargs or {}))


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention as plain matrix products, neither fused nor torch's fast path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _run(
    call: Callable[[], object], device: str, rounds: int
) -> tuple[int | None, list[float]]:  # fmt: skip
    """Bytes at the peak beyond those before, and the seconds of each round after the warm-up.

    The call ends with its result on the CPU, so that nothing is left running on a device.
    """
    before = _begin_peak(device)
    for _ in range(WARM_UP):
        call()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    peak = None if before is None else _peak(device)
    return None if before is None or peak is None else max(0, peak - before), seconds


def _begin_peak(device: str) -> int | None:
    """Forget the highest so far; bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    give_back()
    try:
        _RESET.write_text("5")  # sets VmHWM back, see proc_pid_clear_refs(5)
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: str) -> int | None:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def device_name(device: str) -> str:
    """As the maker calls it; at least the processor's architecture."""
    if device == "cuda":
        name: str = torch.cuda.get_device_name()
        return name
    return processor.field("model name") or platform.processor() or platform.machine()


@contextmanager
def _fetch_errors() -> Iterator[None]:
    """Weights that are not at hand: say what helps here, where there is no ``--weights``."""
    try:
        yield
    except WeightsError as error:
        reason, _, advice = str(error).rpartition("; ")
        if "--weights" not in advice:
            raise
        raise WeightsError(f"{reason}; connect to a network, or drop --pinned") from error


@contextmanager
def _run_errors(name: str, device: str, batch: int) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise BackboneError(
            f"{name} ran out of memory on {device} with --batch {batch}; make it smaller"
        ) from error
    except (
        RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BackboneError(
            f"{name} cannot be run at {CANVAS} px on {device}: {reason}; choose another "
            "checkpoint or device"
        ) from error
