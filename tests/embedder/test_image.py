from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedder.image import ALIGNMENT, SparseImage, lay_out
from embedder.types import Split
from tests.embedder.cells import COUNTS, WIDTH, header, labels

step = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 60), st.binary(max_size=12)),
    st.tuples(st.just("truncate"), st.integers(0, 90), st.just(b"")),
)


@given(st.lists(step, max_size=12))
def test_an_image_reads_and_saves_as_a_real_file_would(
    steps: list[tuple[str, int, bytes]],
) -> None:
    with TemporaryDirectory() as folder:
        image = SparseImage()
        with (Path(folder) / "real").open("w+b", buffering=0) as real:
            for what, offset, data in steps:
                for file in (image, real):
                    if what == "truncate":
                        file.truncate(offset)
                        continue
                    file.seek(offset)
                    assert file.write(data) == len(data)
            for file in (image, real):
                file.seek(0)
            expected = real.read()
        assert image.read(1000) == expected
        image.save(Path(folder) / "saved")
        assert (Path(folder) / "saved").read_bytes() == expected


def test_the_structure_takes_little_memory_however_large_the_cell() -> None:
    image = lay_out(header(width=100_000_000), labels())
    assert image.size > 13_000_000_000
    assert sum(len(data) for _, data in image.regions) < 20_000


def test_arrays_are_contiguous_aligned_and_have_room(tmp_path: Path) -> None:
    path = tmp_path / "cell.h5"
    lay_out(header(), labels()).save(path)
    with h5py.File(path) as file:
        for split, count in zip(Split, COUNTS, strict=True):
            embeddings = file[f"{split}/embeddings"]
            assert embeddings.shape == (count, WIDTH)
            assert embeddings.chunks is None
            assert embeddings.id.get_offset() % ALIGNMENT == 0
            assert embeddings.id.get_offset() + count * WIDTH * 4 <= path.stat().st_size
            assert not embeddings[:].any()
            np.testing.assert_array_equal(file[f"{split}/labels"][:], labels()[split])


def test_what_was_erased_is_listed_behind_everything_else(tmp_path: Path) -> None:
    plain, listed = tmp_path / "plain.h5", tmp_path / "listed.h5"
    lay_out(header(), labels(), {split: np.empty(0, np.int64) for split in Split}).save(plain)
    lay_out(header(), labels()).save(listed)
    assert plain.read_bytes() == listed.read_bytes()
    lay_out(header(), labels(), {Split.TEST: np.array([2, 5])}).save(listed)
    with h5py.File(plain) as before, h5py.File(listed) as after:
        assert (before.attrs["schema"], after.attrs["schema"]) == (1, 2)
        assert set(before["test"]) == {"embeddings", "labels"}
        assert set(after["train"]) == {"embeddings", "labels"}
        assert after["test/erased"].dtype == np.dtype("<i8")
        assert after["test/erased"][:].tolist() == [2, 5]
        for split in Split:
            places = [file[f"{split}/embeddings"].id.get_offset() for file in (before, after)]
            assert places[0] == places[1]
