"""Run by test_writer: writes the small cell row by row; to be killed, or to meet another."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from embedder.errors import CellBusyError
from embedder.types import Split
from embedder.writer import CellWriter
from tests.embedder.cells import header, labels, vectors


def main(path: Path, pause: float) -> None:
    print("ready", flush=True)
    with CellWriter(path, header(), labels()) as writer:
        if writer.complete:
            return
        for split in Split:
            for row in range(writer.done[split], len(vectors(split))):
                writer.append(split, row, vectors(split)[row : row + 1])
                writer.flush()
                time.sleep(pause)
        writer.finish()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), float(sys.argv[2]))
    except CellBusyError as error:
        sys.exit(str(error))
