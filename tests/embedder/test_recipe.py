from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from embedder.backbones import BACKBONES, BENCHMARK, HOG, Checkpoint, expand
from embedder.errors import UnknownNameError, UsageError
from embedder.recipe import Precision, Recipe, Storage, Weights

DINO, RESNET, HOG_ROW = BACKBONES["dino"], BACKBONES["resnet18"], BACKBONES["hog"]


def other(name: str) -> Checkpoint:
    library, _, checkpoint = name.partition(":")
    return Checkpoint(name, library, checkpoint, 1, 224, (0, 0, 0), (1, 1, 1), "MIT", HOG)


@pytest.mark.parametrize(
    ("recipe", "variant"),
    [
        (Recipe(DINO), "dino"),
        (Recipe(DINO, precision=Precision.BF16), "dino-bf16"),
        (Recipe(RESNET, Weights(random_seed=0)), "resnet18-random0"),
        (Recipe(DINO, storage=Storage.FLOAT16), "dino-float16"),
        (
            Recipe(RESNET, Weights(random_seed=3), Precision.BF16, Storage.FLOAT16),
            "resnet18-random3-bf16-float16",
        ),
        (Recipe(DINO, Weights(Path("a b/my weights!.pth"))), "dino-weights-my_weights_"),
        (Recipe(other("timm:vit_tiny.augreg")), "timm--vit_tiny.augreg"),
        (Recipe(other("open_clip:ViT-B-32/laion2b")), "open_clip--ViT-B-32--laion2b"),
    ],
)
def test_a_variant_names_whatever_departs_from_the_default(recipe: Recipe, variant: str) -> None:
    assert recipe.variant == variant


def test_variants_of_all_backbones_differ() -> None:
    assert len({Recipe(row).variant for row in BACKBONES.values()}) == len(BACKBONES)


def test_a_checkpoint_says_where_the_weights_come_from(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert Recipe(DINO).checkpoint == "timm:vit_base_patch16_224.dino"
    assert Recipe(DINO, Weights(random_seed=5)).checkpoint == "random:5"
    assert Recipe(DINO, Weights(tmp_path / "w.pth")).checkpoint == f"file:sha256:{digest}"


def test_options_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        Weights(Path("w.pth"), 0)
    with pytest.raises(UsageError, match="from 0 to 4294967295"):
        Weights(random_seed=-1)
    with pytest.raises(UsageError, match="hog has no weights"):
        Recipe(HOG_ROW, Weights(random_seed=0))
    with pytest.raises(UsageError, match="hog is computed in fp32 only"):
        Recipe(HOG_ROW, precision=Precision.BF16)


def test_all_are_the_ten_of_the_benchmark() -> None:
    assert expand(["all"]) == list(BENCHMARK)
    assert len(BENCHMARK) == 10
    assert expand(["hog", "dino", "hog", "timm:x.y"]) == ["hog", "dino", "timm:x.y"]


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet", "resnet18"), ("DINO", "dino"), ("xyz", "known: vgg16")]
)
def test_an_unknown_backbone_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=hint):
        expand([name])


def test_a_bare_prefix_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="names no checkpoint"):
        expand(["timm:"])
