"""Embeds planned cells one after another on this machine."""

from __future__ import annotations

from collections.abc import Generator

from embedder.encode import BATCH, Encoder
from embedder.errors import BackboneError
from embedder.fingerprint import library_versions
from embedder.heap import keep_freed
from embedder.loading import LoadedBackbone, load
from embedder.plan import PlannedCell, State
from embedder.recipe import Recipe
from embedder.sources import Library
from embedder.store import Header
from embedder.types import Split
from embedder.writer import CellWriter


class Engine:
    """Keeps the last backbone loaded, so cells of one recipe should follow one another.

    ``device`` is auto, cpu or cuda; ``batch_size`` None begins with the device's usual one;
    ``plain`` is that of ``embedder.loading.load``.
    """

    def __init__(
        self, library: Library, device: str, batch_size: int | None, *, plain: bool = False
    ) -> None:
        self._library = library
        self._device = device
        self._batch_size = batch_size
        self._plain = plain
        self._recipe: Recipe | None = None
        self._loaded: LoadedBackbone | BackboneError | None = None
        self._encoder: Encoder | None = None
        self._checked: set[tuple[str, int]] = set()

    def embed(self, cell: PlannedCell) -> Generator[int, None, None]:
        """Embed what is left of a cell.

        Yields first the number of images that were there already, then the number of each batch.
        Raises whichever CasebookError hinders it; what was embedded until then stays.
        """
        if cell.refusal is not None:
            raise cell.refusal
        if cell.state is State.COMPLETE:
            yield cell.images
            return
        loaded, encoder = self._load(cell.recipe)
        source = self._library.open(cell.source, cell.size)
        if (cell.source, cell.size) not in self._checked:
            self._library.check_md5(cell.source, cell.size)
            self._checked.add((cell.source, cell.size))
        fingerprint = cell.fingerprint(source.checksum, loaded.weights)
        header = Header(source.dataset, cell.recipe.variant, fingerprint, library_versions())
        labels = {split: source.labels(split) for split in Split}
        stamp = self._library.stamp(cell.source, cell.size)
        with CellWriter(cell.path, header, labels, stamp) as writer:
            yield sum(writer.done.values())
            if not writer.complete:
                yield from encoder.encode(source, writer)

    def _load(self, recipe: Recipe) -> tuple[LoadedBackbone, Encoder]:
        if recipe != self._recipe:
            self._recipe, self._loaded, self._encoder = recipe, None, None
            try:
                self._loaded = load(recipe, self._device, plain=self._plain)
            except BackboneError as error:
                self._loaded = error
        if isinstance(self._loaded, BackboneError):
            raise self._loaded
        assert self._loaded is not None
        if self._encoder is None:
            if self._loaded.device == "cpu":
                keep_freed()
            size = self._batch_size or BATCH[self._loaded.device]
            self._encoder = Encoder(self._loaded.backbone, size)
        return self._loaded, self._encoder
