"""What the workers do: images to embeddings, and embeddings to neighbours, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ZeroVectorError
from embedder.loading import LoadedBackbone
from embedder.types import Pixels, Rows, Vectors
from service.collection import BLANK, Collection, State
from service.errors import BadRequestError, BadUploadError


@dataclass(frozen=True)
class Query:
    """``vector`` float32 (D,); ``own`` is the row that may not be its own neighbour."""

    vector: Vectors
    k: int
    own: int | None = None


@dataclass(frozen=True)
class Found:
    """The neighbours of one query, int64 (k,) and float32 (k,), and the state they are of."""

    rows: Rows
    similarities: NDArray[np.float32]
    state: State


def embed_with(loaded: LoadedBackbone) -> Callable[[list[Pixels]], Sequence[Vectors]]:
    """Images of one shape, uint8 (H, W, C) each, to embeddings, float32 (D,) each."""

    def embed(batch: list[Pixels]) -> Sequence[Vectors]:
        vectors = loaded.backbone.embed(np.stack(batch))
        if not np.isfinite(vectors).all():
            raise BadUploadError("the embedding is not finite; send another image")
        return list(vectors)

    return embed


def search_in(cases: Collection, fingerprint: str) -> Callable[[list[Query]], Sequence[Found]]:
    """Queries that all have, or all have no, row of their own."""

    def search(batch: list[Query]) -> Sequence[Found]:
        state = cases.state
        queries = np.stack([query.vector for query in batch])
        own = [query.own for query in batch if query.own is not None]
        for row in own:
            cases.check_row(state, row)
        try:
            found = state.views[fingerprint].index.search(
                queries, max(query.k for query in batch), np.array(own, np.int64) if own else None
            )
        except ZeroVectorError as error:
            raise BadRequestError(BLANK) from error
        return [
            Found(found.rows[line, : query.k], found.similarities[line, : query.k], state)
            for line, query in enumerate(batch)
        ]

    return search
