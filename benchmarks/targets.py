"""The rows that are measured: what is compared, what is aimed at, and what the guard allows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from embedder.registry import by_name


class Bound(StrEnum):
    """On which side of its target a figure is to be."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


class Unit(StrEnum):
    RATIO = "ratio"
    SECONDS = "s"


@dataclass(frozen=True)
class Target:
    """One row of the table.

    ``compared`` says which figure stands above which; rows that share it stand together.
    ``target`` None: the ratio is shown, and the ``bound`` only says which way is worse.
    ``tolerance`` is by how much, relative to the committed ratio, the guard lets it worsen; None
    for what it leaves alone.
    """

    name: str
    path: str
    compared: str
    bound: Bound
    target: float | None
    tolerance: float | None
    unit: Unit = Unit.RATIO

    def meets(self, figure: float) -> bool:
        """Whether a figure, as it is printed with two decimals, is within the target."""
        if self.target is None:
            return True
        shown = round(figure, 2)
        return shown >= self.target if self.bound is Bound.AT_LEAST else shown <= self.target


_FASTER = 1.0


def _embed(model: str, size: int) -> tuple[Target, ...]:
    name = f"embed-{model}-{size}"
    return (
        Target(
            f"{name}-bare", "embed",
            "`embed --plain` / bare `model(x)` on ready tensors, images per second",
            Bound.AT_LEAST, 0.95, 0.1,
        ),
        Target(
            f"{name}-script", "embed",
            "medmnist Dataset, torchvision transforms and DataLoader / `embed`, seconds",
            Bound.AT_LEAST, _FASTER, 0.2,
        ),
    )  # fmt: skip


def _reach(model: str) -> tuple[Target, ...]:
    return tuple(
        Target(
            f"reach-{model}-{size}", "reach",
            "`embed --plain` / what a pixel can reach, seconds of the backbone",
            Bound.AT_LEAST, _FASTER, 0.25,
        )
        for size in (28, 64, 128)
    )  # fmt: skip


def _precision(model: str) -> Target:
    compared = "`embed --precision bf16` / `embed --plain`, fp32, images per second"
    return Target(f"precision-{model}", "precision", compared, Bound.AT_LEAST, None, 0.25)


def _knn(name: str, width: int) -> tuple[Target, ...]:
    row = f"knn-{name}-{width}"
    return (
        Target(
            row, "knn", "exact k-NN / the bare float32 product of its shape, seconds",
            Bound.AT_MOST, 1.25, 0.2,
        ),
        Target(
            f"{row}-brute", "knn",
            "scikit-learn `NearestNeighbors`, brute, cosine / exact k-NN, seconds",
            Bound.AT_LEAST, _FASTER, 0.4,
        ),
        Target(
            f"{row}-tree", "knn",
            "scikit-learn `NearestNeighbors`, ball_tree on unit vectors / exact k-NN, seconds",
            Bound.AT_LEAST, _FASTER, 0.5,
        ),
    )  # fmt: skip


def _classify(model: str) -> tuple[Target, ...]:
    one = "`/classify`, one client / bare forward of one image, median seconds"
    many = "`/classify`, 32 clients / `embed`, images per second"
    return (
        Target(f"classify-one-{model}", "classify", one, Bound.AT_MOST, 1.15, 0.2),
        Target(f"classify-32-{model}", "classify", many, Bound.AT_LEAST, 0.9, 0.2),
    )


def _gpu(model: str, size: int) -> tuple[Target, ...]:
    compared = "`embed --plain` / bare `model(x)` on a CUDA device, images per second"
    return tuple(
        Target(f"gpu-embed-{model}-{size}-{p}", "gpu", compared, Bound.AT_LEAST, None, 0.2)
        for p in ("fp32", "bf16")
    )


def _gpu_reach(model: str) -> Target:
    compared = "`embed --plain` / what a pixel can reach on a CUDA device, seconds of the backbone"
    return Target(f"gpu-reach-{model}-28", "gpu", compared, Bound.AT_LEAST, None, 0.25)


TARGETS: tuple[Target, ...] = (
    *_embed("resnet18", 28),
    *_embed("resnet18", 224),
    *_embed("vit", 28),
    *_embed("vit", 224),
    *_reach("vgg16"),
    *_reach("alexnet"),
    *_reach("resnet18"),
    *_reach("densenet121"),
    *_reach("efficientnet_b4"),
    _precision("resnet18"),
    _precision("vit"),
    *_knn("organa", 512),
    *_knn("organa", 768),
    *_knn("organa", 4096),
    *_knn("tissue", 512),
    *_knn("tissue", 768),
    *_knn("tissue", 4096),
    Target(
        "reading-warm", "reading",
        "a cell into the index / `np.fromfile` of its bytes, seconds, in the page cache",
        Bound.AT_MOST, 1.5, 0.3,
    ),
    Target(
        "reading-cold", "reading",
        "a cell into the index / `np.fromfile` of its bytes, seconds, from the disk",
        Bound.AT_MOST, 1.5, 0.5,
    ),
    Target(
        "probe", "probe",
        "three times a plain PyTorch loop of one head and seed / `train` of three seeds, seconds",
        Bound.AT_LEAST, 3.0, 0.2,
    ),
    *_classify("resnet18"),
    *_classify("vit"),
    Target(
        "start-help", "startup", "`--help`, the slowest of five commands",
        Bound.AT_MOST, 0.5, None, Unit.SECONDS,
    ),
    Target(
        "start-serve", "startup",
        "`casebook serve` to ready on 100,000 x 768, besides loading the backbone",
        Bound.AT_MOST, 5.0, None, Unit.SECONDS,
    ),
    Target(
        "memory-embed", "memory", "peak memory of `embed` on 8n images / on n images",
        Bound.AT_MOST, 1.05, 0.05,
    ),
    Target(
        "memory-knn", "memory",
        "peak memory of `knn-eval` less that of a tiny run / the embeddings in float32",
        Bound.AT_MOST, 1.2, 0.15,
    ),
    Target(
        "memory-serve", "memory",
        "peak memory of `casebook serve` less that with a tiny cell / the embeddings in float32",
        Bound.AT_MOST, 1.2, 0.15,
    ),
    *_gpu("resnet18", 28),
    *_gpu("resnet18", 224),
    *_gpu("vit", 28),
    *_gpu("vit", 224),
    _gpu_reach("vgg16"),
    _gpu_reach("resnet18"),
    Target(
        "gpu-knn-product", "gpu",
        "exact k-NN / the bare float32 product of its shape on a CUDA device, seconds",
        Bound.AT_MOST, None, 0.4,
    ),
    Target(
        "gpu-knn", "gpu", "exact k-NN on the CPU / on a CUDA device, seconds",
        Bound.AT_LEAST, None, 0.4,
    ),
)  # fmt: skip

PATHS = tuple(dict.fromkeys(row.path for row in TARGETS))

BY_NAME = by_name(TARGETS)

QUICK = frozenset({
    "embed-resnet18-28-bare", "embed-resnet18-28-script", "embed-resnet18-224-bare",
    "embed-vit-28-bare", "reach-vgg16-28", "reach-resnet18-28", "precision-resnet18",
    "knn-organa-512", "knn-organa-512-brute", "knn-organa-512-tree", "knn-tissue-768",
    "reading-warm", "reading-cold", "probe", "classify-one-resnet18", "classify-32-resnet18",
    "start-help", "memory-knn", "gpu-embed-resnet18-28-fp32", "gpu-reach-resnet18-28",
    "gpu-knn-product", "gpu-knn",
})  # fmt: skip
"""What is measured without ``--full``: of each path what tells most, in minutes."""
