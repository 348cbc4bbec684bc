"""The layers of a network, traced, and run on windows.

Each layer is computed on the window that depends on the image, and on an empty image for the
background around it, which is kept. Squeeze-and-excitation scales the background by the image: from
there on it belongs to the image, and is computed with it. A layer without a rule, or whose window
is nearly everything, is computed on the whole, and so is what follows it.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn import functional

from embedder import kernels
from embedder.kernels import Kernel
from embedder.window import Frames, Windowed

log = logging.getLogger("casebook")

Backgrounds = dict[fx.Node, torch.Tensor]
"""Of each layer the background that is the same for every image."""

LayerFrames = dict[fx.Node | None, Frames]
"""Of each layer, and of the image itself (None), what is computed on for one size of images."""

LARGEST_SHARE = 0.85
"""A layer of which more is to be computed than this is computed on the whole."""

_POINTWISE: frozenset[object] = frozenset({
    nn.BatchNorm2d, BatchNormAct2d, nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU,
    nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    torch.relu, torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.leaky_relu,
    functional.elu, functional.gelu, functional.silu, functional.hardswish, functional.hardsigmoid,
    functional.hardtanh,
})  # fmt: skip

_BINARY: frozenset[object] = frozenset({
    operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul,
    torch.div,
})  # fmt: skip

_POSITIONS = ((2, 3), [2, 3], (-2, -1), [-2, -1])


def trace(network: nn.Module) -> fx.Graph | None:
    """The layers (J. K. Reed et al., torch.fx, MLSys 2022), or None where they cannot be traced.

    Not to be called while another thread computes: tracing replaces how torch calls any module.
    """
    try:
        return _Tracer().trace(network)
    except Exception as error:  # whatever a network's own code does with a stand-in for a tensor
        log.debug("not traced: %s: %s", type(error).__name__, error)
        return None


class _Tracer(fx.Tracer):
    """A module that has a rule, or whose own code cannot be traced, is one layer."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m) in _POINTWISE or type(m) is Conv2dSame
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        before = len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # as in trace()
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


class Run(fx.Interpreter):
    """Runs traced layers, from a Windowed image to a tensor.

    The backgrounds are kept from the first run on, also that of a copy, and so are ``frames``. Of
    the ``total`` of numbers that the layers put out, ``computed`` were computed for each image.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self.frames: LayerFrames = {}
        self._backgrounds: Backgrounds = {}
        self.computed = self.total = 0.0

    def fetch_attr(self, target: str) -> Any:
        found = self.submodules.get(target)  # at once, where the base class walks the dots
        return super().fetch_attr(target) if found is None else found

    def run_node(self, n: fx.Node) -> Any:
        found = self._put_out(n)
        if isinstance(found, Windowed | torch.Tensor) and n.op.startswith("call"):
            share = found.share if isinstance(found, Windowed) else 1
            self.computed += share * found.shape.numel()
            self.total += found.shape.numel()
        return found

    def _put_out(self, n: fx.Node) -> Any:
        inputs = [node for node in n.all_input_nodes if isinstance(self.env[node], Windowed)]
        if not inputs:
            return super().run_node(n)
        found = self._by_rule(n)
        if found is None:
            for node in inputs:
                self.env[node] = self.env[node].whole()
            return super().run_node(n)
        if isinstance(found, Windowed) and found.share > LARGEST_SHARE:
            return found.whole()
        return found

    def _by_rule(self, n: fx.Node) -> Any:
        """What the layer puts out, or None where only the whole will do."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        is_module = n.op == "call_module"
        layer: Any = self.fetch_attr(str(n.target)) if is_module else n.target
        kind = type(layer) if is_module else layer
        if kind in _BINARY and not kwargs and _can_join(args):
            return self._apart(n, args, layer)
        if kind is torch.cat and _can_concatenate(*args, **kwargs):
            return self._apart(n, args[0], _concatenate)
        if not args or not isinstance(args[0], Windowed):
            return None
        if kind is getattr and args[1] in ("shape", "ndim"):
            return getattr(*args)
        if kind in _POINTWISE:
            return self._apart(n, args[:1], lambda x: layer(x, *args[1:], **kwargs))
        if is_module and (kernel := kernels.describe(layer, args[0].shape[2:])) is not None:
            return self._slide(n, layer, kernel, args[0])
        return _mean(layer, args, kwargs)

    def _apart(self, n: fx.Node, inputs: Any, function: Callable[..., torch.Tensor]) -> Windowed:
        """What is computed at each position from the inputs at the same position."""
        values = [value for value in inputs if isinstance(value, Windowed)]
        rows, columns = values[0].rows, values[0].columns
        for value in values[1:]:
            rows, columns = rows.join(value.rows), columns.join(value.columns)
        tensors = any(isinstance(value, torch.Tensor) for value in inputs)
        shared = not tensors and all(value.shared for value in values)

        def each(part: Callable[[Windowed], torch.Tensor]) -> torch.Tensor:
            return function(*(part(v) if isinstance(v, Windowed) else v for v in inputs))

        window = each(lambda value: value.region(rows.window, columns.window))
        # Of a copy, because an activation function may write to what it is given.
        background = self._kept(
            n, shared, lambda: each(lambda value: value.spread_to(rows, columns).clone())
        )
        return Windowed(rows, columns, background, window, shared, self._frames_of(n))

    def _slide(self, n: fx.Node, layer: nn.Module, kernel: Kernel, value: Windowed) -> Windowed:
        rows, columns = kernel.rows.over(value.rows), kernel.columns.over(value.columns)
        reads = (kernel.rows.reads(rows.window), kernel.columns.reads(columns.window))
        window = kernel.run(value.region(*reads, kernel.fill))
        # The padded layer on a smaller canvas, whose steps fall on the same rows as on the whole.
        dropped = (rows.dropped * kernel.rows.stride, columns.dropped * kernel.columns.stride)
        background = self._kept(n, value.shared, lambda: layer(value.spread(*dropped)))
        return Windowed(rows, columns, background, window, value.shared, self._frames_of(n))

    def _kept(
        self, n: fx.Node, shared: bool, background: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        if not shared:
            return background()
        if n not in self._backgrounds:
            self._backgrounds[n] = background()
        return self._backgrounds[n]

    def _frames_of(self, n: fx.Node) -> Frames:
        return self.frames.setdefault(n, {})


def _can_join(inputs: tuple[Any, ...]) -> bool:
    """Whether all are numbers, windowed and of one size, or the same at every position."""
    sizes = {value.shape[2:] for value in inputs if isinstance(value, Windowed)}
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    flat = all(value.ndim == 0 or value.shape[1:][-2:] == (1, 1) for value in tensors)
    return len(sizes) == 1 and flat


def _can_concatenate(parts: Any = (), dim: int = 0, **others: Any) -> bool:
    sizes = {value.shape[2:] if isinstance(value, Windowed) else None for value in parts}
    return dim == 1 and not others and len(sizes) == 1 and None not in sizes


def _concatenate(*parts: torch.Tensor) -> torch.Tensor:
    """Along the channels, of (B, C, H, W) and (1, C, H, W)."""
    batch = max(len(part) for part in parts)
    return torch.cat([part.expand(batch, -1, -1, -1) for part in parts], 1)


def _mean(layer: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The mean over all positions, if that is what is asked for."""
    mean: torch.Tensor
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
        mean = args[0].mean()
        return mean
    options = dict(zip(("input", "dim", "keepdim"), args, strict=False)) | kwargs
    known = options.keys() <= {"input", "dim", "keepdim"} and options.get("dim") in _POSITIONS
    if not known or layer not in ("mean", torch.mean):
        return None
    mean = args[0].mean()
    return mean if options.get("keepdim") else mean.flatten(1)
