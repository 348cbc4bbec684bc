from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from embedder.errors import CasebookError
from embedder.types import Pixels, Task
from evaluate.gallery import AGREE, DISAGREE, Picture, draw, legend

Canvas = NDArray[np.int64]


def flat(value: int | tuple[int, int, int], size: int = 28) -> Pixels:
    colour = np.atleast_1d(np.array(value, np.uint8))
    return np.broadcast_to(colour, (size, size, len(colour))).copy()


def picture(value: int | tuple[int, int, int], *, agrees: bool = True, title: str = "a") -> Picture:
    return Picture(flat(value), title, "0.900", agrees)


def read(path: Path) -> Canvas:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


def share(canvas: Canvas, colour: str | tuple[int, int, int]) -> float:
    """Of the pixels that have nearly this colour."""
    if isinstance(colour, str):
        colour = tuple(bytes.fromhex(colour[1:]))  # type: ignore[assignment]
    return float((np.abs(canvas - np.array(colour)) < 12).all(axis=2).mean())


def test_every_image_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "cases.png"
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    draw(picture((240, 220, 0)), [picture(colour) for colour in colours], ["a heading"], path)
    canvas = read(path)
    small = [share(canvas, colour) for colour in colours]
    assert min(small) > 0.02
    assert max(small) - min(small) < 0.002
    assert share(canvas, (240, 220, 0)) > 4 * max(small)
    assert share(canvas, "#ffffff") > 0.1


def test_grey_levels_are_not_stretched(tmp_path: Path) -> None:
    draw(picture(100), [picture(50), picture(150)], [], tmp_path / "grey.png")
    canvas = read(tmp_path / "grey.png")
    for level in (50, 100, 150):
        assert share(canvas, (level, level, level)) > 0.02


def test_frames_tell_who_agrees(tmp_path: Path) -> None:
    for agrees, colour, other in ((True, AGREE, DISAGREE), (False, DISAGREE, AGREE)):
        path = tmp_path / f"{agrees}.png"
        draw(picture(128, agrees=agrees), [picture(128, agrees=agrees)] * 3, [], path)
        canvas = read(path)
        assert share(canvas, colour) > 0.001
        assert share(canvas, other) == 0
    solid, dashed = read(tmp_path / "True.png"), read(tmp_path / "False.png")
    assert share(dashed, DISAGREE) < 0.9 * share(solid, AGREE)


@pytest.mark.parametrize("count", [1, 2, 6, 7, 11, 25])
def test_any_number_of_neighbours(tmp_path: Path, count: int) -> None:
    path = tmp_path / "cases.png"
    draw(picture(0), [picture((0, 200, 0))] * count, [], path)
    canvas = read(path)
    area = share(canvas, (0, 200, 0)) * canvas.shape[0] * canvas.shape[1]
    assert area / count == pytest.approx((1.35 * 150) ** 2, rel=0.08)  # less the frame


@pytest.mark.parametrize(
    ("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_other_formats(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"cases{suffix}"
    draw(picture(0), [picture(255)], ["a heading"], path)
    assert path.read_bytes().startswith(start)


def test_text_in_an_svg(tmp_path: Path) -> None:
    path = tmp_path / "cases.svg"
    draw(picture(0, title="costs $5 or $6_x^"), [picture(0)], ["$\\nonsense{$ 100 %"], path)
    text = path.read_text()
    assert "costs $5 or $6_x^" in text
    assert "$\\nonsense{$ 100 %" in text


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "cases.svg"
    name = "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)"
    query = Picture(flat(0), name, f"toy/test/0\nlabel: {name}")
    draw(query, [picture(0, title=name)], [], path)
    text = path.read_text()
    assert name not in text
    assert "immature granulocytes(myelocytes…" in text
    assert "label: immature granulocytes(mye…" in text
    assert "toy/test/0" in text


def test_what_the_frames_mean() -> None:
    assert legend(Task.BINARY) == "solid blue: agrees with the prediction; dashed orange: does not"
    assert legend(Task.MULTILABEL) == (
        "solid blue: has every predicted label, or has none where none is predicted "
        "(the query: no other than those); dashed orange: does not"
    )


def test_a_long_heading_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "cases.svg"
    heading = "The 1 training case nearest to pneumoniamnist/test/3 by hog at 28 px, by cosine"
    draw(picture(0), [picture(0)], [heading], path)
    assert heading not in path.read_text()
    draw(picture(0), [picture(0)] * 11, [heading], path)
    assert heading in path.read_text()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CasebookError, match=r"cannot write .*file/cases\.png: .*; check --out"):
        draw(picture(0), [picture(0)], [], tmp_path / "file" / "cases.png")
