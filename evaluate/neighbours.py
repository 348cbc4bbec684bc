"""``casebook neighbours``: one stored case, the vote of its nearest cases, and their picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedder import console
from embedder.datasets import DATASETS, is_path
from embedder.errors import CasebookError, EvaluationError, UsageError
from embedder.types import Distance, Labels, Split, Task, case_id
from evaluate.cli import add_vote, protocol_of

if TYPE_CHECKING:
    from embedder.datasets import Dataset, ImageSource
    from embedder.store import Cell
    from evaluate.knn import Protocol
    from index.search import Neighbours


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook neighbours",
        "Classify one stored case by its nearest training cases, and draw them.",
    )
    parser.add_argument("--model", action="append", metavar="NAME", help="a stored backbone")
    parser.add_argument("--dataset", action="append", metavar="NAME", help="a stored dataset")
    parser.add_argument("--res", action="append", metavar="PX", help="a stored side length")
    parser.add_argument("--case", default="test/0", metavar="SPLIT/ROW", help="(default test/0)")
    parser.add_argument("--k", default="11", metavar="K", help="neighbours that vote (default 11)")
    add_vote(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="draw them: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    console.add_folders(parser, data=True)
    return parser


def _handle(options: argparse.Namespace) -> int:
    from evaluate.knn import find_neighbours

    dataset, options.split, row = _parse_case(options.case)
    if dataset:
        if options.dataset not in (None, [dataset]):
            raise UsageError(f"--case {options.case} is not of --dataset {options.dataset[0]}")
        options.dataset = [dataset]
    ks = console.numbers([options.k], "--k")
    if len(ks) != 1:
        raise UsageError("--k takes one number here")
    if options.out and options.out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--out {options.out} must end in .png, .svg or .pdf")
    protocol = protocol_of(options, ks)
    cell = _one_cell(options)
    count = cell.dataset.count(protocol.split)
    if row >= count:
        raise UsageError(f"{protocol.split} of {cell.dataset.name} has rows 0 to {count - 1}")
    if row in cell.erased[protocol.split]:
        raise UsageError(f"{case_id(cell.dataset.name, protocol.split, row)} was erased")
    found = find_neighbours(cell, protocol, np.array([row], np.int64))
    answer = describe(cell, protocol, row, found)
    if options.out:
        _draw(cell, protocol, row, answer, options)
    print(json.dumps(answer, indent=1) if options.json else _as_text(answer, cell.dataset.task))
    return 0


def describe(cell: Cell, protocol: Protocol, row: int, found: Neighbours) -> dict[str, Any]:
    """The prediction for one query and the cases that it rests on."""
    from evaluate.metrics import predict
    from index.vote import agrees, count_votes

    dataset, support = cell.dataset, cell.labels(Split.TRAIN)
    scores = count_votes(
        found, support, dataset.task, len(dataset.classes), protocol.vote, protocol.distance
    )
    predicted = predict(scores, dataset.task)[0]
    truth = cell.labels(protocol.split)[row]
    agreeing = agrees(support[found.rows[0]], predicted, dataset.task)
    cases = zip(
        found.ids(dataset.name)[0], found.rows[0], found.similarities[0], agreeing, strict=True
    )
    return {
        "case": case_id(dataset.name, protocol.split, row),
        "model": cell.header.variant,
        "res": cell.size,
        "label": name_of(truth, dataset),
        "prediction": name_of(predicted, dataset),
        "scores": dict(zip(dataset.classes, scores[0].tolist(), strict=True)),
        "neighbours": [
            {
                "id": name,
                "label": name_of(support[number], dataset),
                "similarity": float(similarity),
                "agrees": bool(yes),
            }
            for name, number, similarity, yes in cases
        ],
        "protocol": protocol.describe(len(found.rows[0])),
        "fingerprint": asdict(cell.header.fingerprint),
    }


def name_of(label: Labels, dataset: Dataset) -> str:
    """The class of a row of labels, or the labels that are present."""
    if dataset.task is not Task.MULTILABEL:
        name = dataset.classes[int(label[0])]
        return f"class {name}" if name.isdecimal() else name
    present = [name for name, bit in zip(dataset.classes, label, strict=True) if bit]
    return ", ".join(present) or "no finding"


def _as_text(answer: dict[str, Any], task: Task) -> str:
    rows = [
        (rank, case["id"], case["label"], f"{_nearness(case, answer):.4f}")
        for rank, case in enumerate(answer["neighbours"], 1)
    ]
    head = ("rank", "case", "label", "distance" if _is_euclidean(answer) else "similarity")
    table = console.table(rows, head, "rllr")
    return (
        f"{answer['case']} by {answer['model']} at {answer['res']} px: {_verdict(answer, task)}; "
        f"labelled {answer['label']}\n\n{table}"
    )


def _nearness(case: dict[str, Any], answer: dict[str, Any]) -> float:
    """The cosine similarity or, for people, the Euclidean distance without its sign."""
    return float(abs(case["similarity"])) if _is_euclidean(answer) else float(case["similarity"])


def _is_euclidean(answer: dict[str, Any]) -> bool:
    return bool(answer["protocol"]["distance"] == Distance.EUCLIDEAN)


def _verdict(answer: dict[str, Any], task: Task) -> str:
    """The prediction with its score; of a multi-label task each label that is present with its."""
    scores = sorted(answer["scores"].items(), key=lambda pair: -pair[1])
    if task is not Task.MULTILABEL:
        return f"{answer['prediction']} (score {scores[0][1]:.2f})"
    present = ", ".join(f"{name} {score:.2f}" for name, score in scores if score > 0.5)
    return present or f"no finding (highest: {scores[0][0]} {scores[0][1]:.2f})"


def _draw(
    cell: Cell, protocol: Protocol, row: int, answer: dict[str, Any], options: argparse.Namespace
) -> None:
    from evaluate.gallery import Picture, draw, legend

    source = _open_images(cell, options)
    rows = [int(case["id"].rpartition("/")[2]) for case in answer["neighbours"]]
    query = Picture(
        source.pick(protocol.split, [row])[0],
        f"prediction: {answer['prediction']}",
        f"{answer['case']}\nlabel: {answer['label']}",
        answer["prediction"] == answer["label"],
    )
    cases = [
        Picture(pixels, case["label"], _caption(case, answer), case["agrees"])
        for pixels, case in zip(
            source.pick(Split.TRAIN, rows), answer["neighbours"], strict=True
        )
    ]  # fmt: skip
    verdict = _verdict(answer, cell.dataset.task)
    heading = (
        f"{answer['case']} by {answer['model']} at {answer['res']} px: {verdict}, "
        f"from its {len(cases)} nearest training cases ({protocol.distance}, "
        f"{answer['protocol']['vote']} vote)"
    )
    draw(query, cases, [heading, legend(cell.dataset.task)], options.out)
    print(f"wrote {options.out}", file=sys.stderr)


def _caption(case: dict[str, Any], answer: dict[str, Any]) -> str:
    """The row of the case, and how near it is."""
    return f"{case['id'].partition('/')[2]}  {_nearness(case, answer):.3f}"


def _open_images(cell: Cell, options: argparse.Namespace) -> ImageSource:
    """The images that were embedded; raises CasebookError where they are not at hand."""
    from embedder.sources import library_from_environment

    paths = [word for word in console.words(options.dataset) if is_path(word)]
    name = paths[0] if paths else cell.dataset.name
    if name not in DATASETS and not paths:
        raise CasebookError(f"where the images of {name} lie is not known; give --dataset PATH")
    library = library_from_environment(options.data, cell.dataset.task)
    if not library.is_here(name, cell.size):
        raise CasebookError(
            f"the images are not at {library.path(name, cell.size)}; give --data, or drop --out"
        )
    source = library.open(name, cell.size)
    if source.checksum != cell.header.fingerprint.dataset_checksum:
        way = "give the path of that file" if paths else "give --data"
        raise CasebookError(f"{name} is not what was embedded; {way}, or drop --out")
    return source


def _one_cell(options: argparse.Namespace) -> Cell:
    from embedder.selection import select_cells, title
    from embedder.store import Store, default_root

    cells, failures = select_cells(
        Store(options.store or default_root()), options.dataset, options.model, options.res
    )
    if failures:
        raise EvaluationError(failures[0])
    if len(cells) > 1:
        names = ", ".join(title(cell) for cell in cells[:4])
        raise UsageError(
            f"{len(cells)} cells match ({names}{' ...' if len(cells) > 4 else ''}); "
            "give --model, --dataset and --res"
        )
    return cells[0]


def _parse_case(text: str) -> tuple[str, str, int]:
    """Dataset (empty where left out), split and row."""
    head, _, row = text.rpartition("/")
    dataset, _, split = head.rpartition("/")
    if split not in list(Split) or not row.isdecimal():
        raise UsageError(f"--case {text!r} is no case; write it as test/0")
    return dataset, split, int(row)


if __name__ == "__main__":
    sys.exit(main())
