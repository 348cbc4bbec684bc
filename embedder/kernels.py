"""Layers that slide a kernel over their input: what an output position reads, and how to compute it
where the padding is part of the input already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional

from embedder.window import Slide


@dataclass(frozen=True)
class Kernel:
    """``run`` computes the layer without padding; ``fill`` is what it is padded with."""

    rows: Slide
    columns: Slide
    fill: float
    run: Callable[[torch.Tensor], torch.Tensor]


def describe(module: nn.Module, size: torch.Size) -> Kernel | None:
    """The kernel of a layer for inputs of ``size`` (height and width), or None if it has no rule.

    Known are convolutions padded with zeros, and maximum and average pools whose mean is over as
    many positions at the edge as elsewhere.
    """
    kind = type(module)
    if isinstance(module, nn.Conv2d) and kind in (nn.Conv2d, Conv2dSame):
        return _convolution(module, size) if module.padding_mode == "zeros" else None
    if isinstance(module, nn.MaxPool2d) and kind is nn.MaxPool2d and not module.return_indices:
        return _maximum(module)
    if isinstance(module, nn.AvgPool2d) and kind is nn.AvgPool2d and not module.ceil_mode:
        return _average(module)
    return None


def _convolution(module: nn.Conv2d, size: torch.Size) -> Kernel:
    rows, columns = (
        Slide(
            module.kernel_size[axis], module.stride[axis], *_padding(module, axis, size[axis]),
            module.dilation[axis],
        )
        for axis in (0, 1)
    )  # fmt: skip

    def run(region: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(
            region, module.weight, module.bias, module.stride, 0, module.dilation, module.groups
        )

    return Kernel(rows, columns, 0.0, run)


def _padding(module: nn.Conv2d, axis: int, length: int) -> tuple[int, int]:
    """Zeros before and after; those of TensorFlow's rule, and of ``same``, can differ by one."""
    extent = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
    if isinstance(module, Conv2dSame):
        stride = module.stride[axis]
        total = max((-(-length // stride) - 1) * stride + extent - length, 0)
    elif isinstance(module.padding, str):
        total = extent - 1 if module.padding == "same" else 0
    else:
        return int(module.padding[axis]), int(module.padding[axis])
    return total // 2, total - total // 2


def _maximum(module: nn.MaxPool2d) -> Kernel:
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    padding, dilation = _pair(module.padding), _pair(module.dilation)
    rows, columns = (
        Slide(
            kernel[axis], stride[axis], padding[axis], padding[axis], dilation[axis],
            module.ceil_mode,
        )
        for axis in (0, 1)
    )  # fmt: skip

    def run(region: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(region, kernel, stride, 0, dilation)

    return Kernel(rows, columns, -inf, run)


def _average(module: nn.AvgPool2d) -> Kernel | None:
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    padding = _pair(module.padding)
    if padding != (0, 0) and not module.count_include_pad and module.divisor_override is None:
        return None
    rows, columns = (
        Slide(kernel[axis], stride[axis], padding[axis], padding[axis]) for axis in (0, 1)
    )

    def run(region: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(
            region, kernel, stride, 0, divisor_override=module.divisor_override
        )

    return Kernel(rows, columns, 0.0, run)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
