"""For schemathesis: an image where a schema can only say bytes, and names that are served.

Its command loads this module through SCHEMATHESIS_HOOKS.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

from service.forms import IMAGE_TYPES
from tests.service.hostile import bmp, noise

# Of ASCII alone: a schema knows a file as a string only, and other bytes would not conform to it.
IMAGE = bmp(4, 4, (noise(48) & 127).tobytes()).decode("ascii")
KNOWN: dict[str, Any] = {
    "dataset": "tiny", "model": "hog", "res": 28, "label": ["1"], "id": "tiny/test/1",
    "embedding": [0.5] * 324, "file": IMAGE, "files": [IMAGE, IMAGE],
}  # fmt: skip

for kind in IMAGE_TYPES.split(", "):
    schemathesis.openapi.media_type(kind, st.just(IMAGE.encode()))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A request that is right by its schema names what is served, and sends images."""
    if case.meta is not None and case.meta.generation.mode.is_positive:
        for values in (case.path_parameters, case.query, case.body):
            if isinstance(values, dict):
                given = [name for name in KNOWN if values.get(name) is not None]
                values.update((name, KNOWN[name]) for name in given)
