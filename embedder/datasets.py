"""What a dataset is, and the rows for those that casebook knows by name.

The twelve of MedMNIST+ (J. Yang et al., MedMNIST v2, Scientific Data 10, 41, 2023; the larger sizes
since medmnist 3.0) and four built-in ``phantom`` datasets, which need no download.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embedder.errors import DatasetError, UnknownNameError
from embedder.registry import by_name, find
from embedder.types import Labels, Pixels, Split, Task

SIZES = (28, 64, 128, 224)
"""The side lengths, in pixels, of MedMNIST+ and of the phantoms."""

_CC_BY = "CC BY 4.0"


@dataclass(frozen=True)
class Dataset:
    """One dataset, whatever the size of its images.

    ``classes`` holds a name per class, or per label where the task is multi-label; ``counts`` the
    rows of train, val and test. ``channels`` is 1 (grey) or 3 (RGB).
    """

    name: str
    task: Task
    channels: int
    counts: tuple[int, int, int]
    classes: tuple[str, ...]
    licence: str

    def count(self, split: Split) -> int:
        return dict(zip(Split, self.counts, strict=True))[split]

    def known_row(self, split: Split, row: int) -> int:
        """``row`` itself. Raises DatasetError where the split has no such row."""
        count = self.count(split)
        if not 0 <= row < count:
            raise DatasetError(
                f"{self.name} has no row {row} of {split}; its rows are 0 to {count - 1}"
            )
        return row


class ImageSource(Protocol):
    """The images and labels of one dataset at one size, read without holding them all in memory."""

    @property
    def dataset(self) -> Dataset: ...

    @property
    def size(self) -> int:
        """Side length of the square images, in pixels."""
        ...

    @property
    def checksum(self) -> str:
        """Names the content of every split, labels included; equal content has an equal one."""
        ...

    def labels(self, split: Split) -> Labels: ...

    def batches(self, split: Split, batch_size: int, start: int = 0) -> Iterator[Pixels]:
        """The images from row ``start`` on, in row order, ``batch_size`` at a time."""
        ...

    def pick(self, split: Split, rows: Sequence[int]) -> Pixels:
        """The images of the given rows, in the given order."""
        ...

    def image(self, split: Split, row: int) -> Pixels:
        """One image, uint8 (H, W, C), by random access.

        Unlike with ``pick``, nothing was compared with a checksum. Raises DatasetError for a row
        that is not there.
        """
        ...


_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver",
    "lung-left", "lung-right", "pancreas", "spleen",
)  # fmt: skip

MEDMNIST: tuple[Dataset, ...] = (
    Dataset(
        "bloodmnist", Task.MULTICLASS, 3, (11959, 1712, 3421),
        (
            "basophil", "eosinophil", "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte", "monocyte", "neutrophil", "platelet",
        ),
        _CC_BY,
    ),
    Dataset(
        "breastmnist", Task.BINARY, 1, (546, 78, 156), ("malignant", "normal, benign"), _CC_BY
    ),
    Dataset(
        "chestmnist", Task.MULTILABEL, 1, (78468, 11219, 22433),
        (
            "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule",
            "pneumonia", "pneumothorax", "consolidation", "edema", "emphysema", "fibrosis",
            "pleural", "hernia",
        ),
        _CC_BY,
    ),
    Dataset(
        "dermamnist", Task.MULTICLASS, 3, (7007, 1003, 2005),
        (
            "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma",
            "benign keratosis-like lesions", "dermatofibroma", "melanoma", "melanocytic nevi",
            "vascular lesions",
        ),
        "CC BY-NC 4.0",
    ),
    Dataset(
        "octmnist", Task.MULTICLASS, 1, (97477, 10832, 1000),
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        _CC_BY,
    ),
    Dataset("organamnist", Task.MULTICLASS, 1, (34561, 6491, 17778), _ORGANS, _CC_BY),
    Dataset("organcmnist", Task.MULTICLASS, 1, (12975, 2392, 8216), _ORGANS, _CC_BY),
    Dataset("organsmnist", Task.MULTICLASS, 1, (13932, 2452, 8827), _ORGANS, _CC_BY),
    Dataset(
        "pathmnist", Task.MULTICLASS, 3, (89996, 10004, 7180),
        (
            "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle",
            "normal colon mucosa", "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        _CC_BY,
    ),
    Dataset("pneumoniamnist", Task.BINARY, 1, (4708, 524, 624), ("normal", "pneumonia"), _CC_BY),
    Dataset("retinamnist", Task.ORDINAL, 3, (1080, 120, 400), ("0", "1", "2", "3", "4"), _CC_BY),
    Dataset(
        "tissuemnist", Task.MULTICLASS, 1, (165466, 23640, 47280),
        (
            "Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule",
            "Glomerular endothelial cells", "Interstitial endothelial cells", "Leukocytes",
            "Podocytes", "Proximal Tubule Segments", "Thick Ascending Limb",
        ),
        _CC_BY,
    ),
)  # fmt: skip

_PHANTOM_COUNTS = (1400, 200, 400)

PHANTOM: tuple[Dataset, ...] = (
    Dataset(
        "phantom-nodule", Task.BINARY, 1, _PHANTOM_COUNTS, ("clear", "nodule"), "Apache-2.0"
    ),
    Dataset(
        "phantom-cells", Task.MULTICLASS, 3, _PHANTOM_COUNTS,
        ("lymphocyte", "monocyte", "neutrophil", "eosinophil", "erythroblast", "platelet"),
        "Apache-2.0",
    ),
    Dataset(
        "phantom-grade", Task.ORDINAL, 3, _PHANTOM_COUNTS,
        ("none", "mild", "moderate", "severe", "proliferative"),
        "Apache-2.0",
    ),
    Dataset(
        "phantom-findings", Task.MULTILABEL, 1, _PHANTOM_COUNTS,
        ("cardiomegaly", "effusion", "consolidation", "pneumothorax", "nodule", "device"),
        "Apache-2.0",
    ),
)  # fmt: skip

DATASETS = by_name((*MEDMNIST, *PHANTOM))

FAMILIES: dict[str, tuple[Dataset, ...]] = {"all": MEDMNIST, "phantom": PHANTOM}
"""Names that stand for several datasets."""


def is_path(name: str) -> bool:
    """Whether a dataset was named by where it lies: an ``.npz`` file or a folder."""
    return name.endswith(".npz") or "/" in name or "\\" in name or name in (".", "..")


def name_of_path(path: Path, size: int | None) -> str:
    """What a dataset given by path is called in the store: the name of its folder (``size`` None),
    or of its file without ``.npz`` and without ``_<size>``.

    Raises DatasetError for a name that would lead out of its place in the store.
    """
    name = Path(os.path.abspath(path)).name
    if size is not None:
        name = name.removesuffix(".npz").removesuffix(f"_{size}")
    if not name or name.startswith(".") or name in {"heads", "results", *FAMILIES}:
        raise DatasetError(f"{path} gives no name for the store; rename it")
    return name


def expand(names: Sequence[str]) -> list[str]:
    """Dataset names with families written out, each once, in the given order.

    Raises UnknownNameError for a name that is neither known nor a path.
    """
    found: dict[str, None] = {}
    for name in names:
        if name in FAMILIES:
            found.update((row.name, None) for row in FAMILIES[name])
        elif is_path(name):
            found[name] = None
        else:
            if name not in DATASETS and os.path.exists(name):
                raise UnknownNameError(
                    f"unknown dataset {name!r}; to name the path, write ./{name}"
                )
            find({**DATASETS, **dict.fromkeys(FAMILIES)}, name, "dataset")
            found[name] = None
    return list(found)
