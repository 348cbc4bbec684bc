"""``casebook audit``: likely duplicates and wrong labels of stored cells, and their balance."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embedder import console
from embedder.errors import CasebookError, EvaluationError, UsageError
from embedder.selection import select_cells, title
from embedder.types import Split, Task, case_id
from evaluate.neighbours import name_of

if TYPE_CHECKING:
    from embedder.datasets import ImageSource
    from embedder.store import Cell
    from evaluate.audit import Audit


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(build_parser(), _handle, argv)


def build_parser() -> console.Parser:
    parser = console.Parser(
        "casebook audit",
        "Likely duplicates, labels that all neighbours contradict, and the balance of classes.",
    )
    console.add_list(parser, "--model", "NAME", "only this variant or backbone")
    console.add_list(
        parser, "--dataset", "NAME", "only this dataset; a path says where its images lie"
    )
    console.add_list(parser, "--res", "PX", "only this side length")
    parser.add_argument(
        "--k", default="11", metavar="K", help="neighbours that contradict a label (default 11)"
    )
    parser.add_argument(
        "--near", type=float, metavar="COSINE",
        help="from which on twins are near duplicates (default: chosen for each cell)",
    )  # fmt: skip
    parser.add_argument(
        "--index", choices=("auto", "faiss", "faiss-gpu", "reference"), default="auto",
        help="what searches; all give the same neighbours",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=console.folder, metavar="DIR", help="every finding as CSV and JSON; pictures"
    )
    output.add_argument(
        "--show", default="12", metavar="N", help="findings in a table or sheet (default 12)"
    )
    output.add_argument("--json", action="store_true", help="everything, to standard output")
    console.add_folders(parser, data=True)
    return parser


@dataclass(frozen=True)
class _Examined:
    """A cell, what was found in it, and the images that it was found with."""

    cell: Cell
    answer: dict[str, Any]
    found: Audit
    source: ImageSource | None


def _handle(options: argparse.Namespace) -> int:
    from embedder.store import Store, default_root

    options.k, options.show = _number(options.k, "--k"), _number(options.show, "--show")
    if options.near is not None and not 0 < options.near <= 1:
        raise UsageError(f"--near {options.near} is no cosine above 0 and up to 1")
    store = Store(options.store or default_root())
    cells, failures = select_cells(store, options.dataset, options.model, options.res)
    count = len(cells) + len(failures)
    if options.out:
        from evaluate.audit_files import prepare

        prepare(options.out)
    examined = []
    for cell in _watched(cells):
        try:
            examined.append(_examine(cell, options))
        except CasebookError as error:
            failures.append(f"{title(cell)}: {error}")
    _print([one.answer for one in examined], options)
    failures += _write(examined, options) if options.out else []
    for failure in failures:
        print(f"failed: {' '.join(failure.split())}", file=sys.stderr)
    if failures:
        raise EvaluationError(f"{len(failures)} of {count} cells failed")
    return 0


def _print(answers: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Before anything is written, so that no disk can lose the findings."""
    if options.json:
        print(json.dumps(answers, indent=1), flush=True)
    elif answers:
        texts = (_as_text(answer, options.show) for answer in answers)
        print("\n\n\n".join(texts), flush=True)


def _write(examined: list[_Examined], options: argparse.Namespace) -> list[str]:
    """The files of each cell, as ``--out`` asks; what could not be written."""
    from evaluate.audit_files import write

    failures = []
    for one in examined:
        try:
            begin = write(options.out, one.answer, one.cell, one.found, one.source, options.show)
        except CasebookError as error:
            failures.append(f"{title(one.cell)}: {error}")
        else:
            print(f"wrote {begin}*", file=sys.stderr)
    return failures


def _number(text: str, option: str) -> int:
    found = console.numbers([text], option)
    if len(found) != 1:
        raise UsageError(f"{option} takes one number here")
    return found[0]


def _watched(cells: list[Cell]) -> Iterable[Cell]:
    from tqdm import tqdm

    watched: Iterable[Cell] = tqdm(cells, "searching", unit=" cells", disable=None, leave=False)
    return watched


def _examine(cell: Cell, options: argparse.Namespace) -> _Examined:
    from evaluate.audit import audit
    from evaluate.sheets import find_images
    from index.build import Kind

    source, reason = find_images(cell, console.words(options.dataset), options.data)
    found = audit(cell, options.k, options.near, Kind(options.index), source)
    answer = describe(cell, found, chosen=options.near is None, index=options.index)
    answer["images"] = reason or "compared"
    return _Examined(cell, answer, found, source)


def describe(cell: Cell, found: Audit, *, chosen: bool, index: str) -> dict[str, Any]:
    """An audit as JSON has it."""
    from index.build import Kind, resolve

    dataset = cell.dataset
    labels = {split: cell.labels(split) for split in Split}

    def named(split: Split, row: int) -> str:
        return name_of(labels[split][row], dataset)

    return {
        "format": "casebook-audit", "schema": 1,
        "dataset": dataset.name, "task": str(dataset.task), "res": cell.size,
        "model": cell.header.variant, "classes": list(dataset.classes), "k": found.k,
        "near": found.near, "near_chosen": chosen, "index": str(resolve(Kind(index))),
        "splits": [asdict(balance) for balance in found.balances],
        "duplicates": [
            {
                "case": case_id(dataset.name, d.split, d.row),
                "twin": case_id(dataset.name, d.twin_split, d.twin_row),
                "kind": d.kind, "similarity": d.similarity, "same_embedding": d.same_embedding,
                "same_pixels": d.same_pixels, "same_label": d.same_label,
                "label": named(d.split, d.row), "twin_label": named(d.twin_split, d.twin_row),
            }
            for d in found.duplicates
        ],
        "suspects": [
            {
                "case": case_id(dataset.name, s.split, s.row), "label": s.label, "given": s.given,
                "suggested": s.suggested, "strength": s.strength, "share": s.share,
                "usual": s.usual, "similarity": s.similarity, "own_similarity": s.own_similarity,
                "neighbours": [case_id(dataset.name, Split.TRAIN, row) for row in s.neighbours],
            }
            for s in found.suspects
        ],
        "fingerprint": asdict(cell.header.fingerprint),
    }  # fmt: skip


def _as_text(answer: dict[str, Any], show: int) -> str:
    head = f"{answer['model']} {answer['dataset']} {answer['res']} px"
    parts = [head, _balance_text(answer), _pairs_text(answer, show), _suspects_text(answer, show)]
    return "\n\n".join(parts)


def _balance_text(answer: dict[str, Any]) -> str:
    splits = answer["splits"]
    rows = [
        [name, *(_count(split, number) for split in splits)]
        for number, name in enumerate(answer["classes"])
    ]
    for noun, key in (("cases", "cases"), ("erased", "erased"), ("zero vectors", "zeros")):
        if key == "cases" or any(split[key] for split in splits):
            rows.append([noun, *(f"{split[key]:,}" for split in splits)])
    multilabel = answer["task"] == Task.MULTILABEL
    noun = "mean equitability" if multilabel else "equitability"
    rows.append([noun, *(_figure(split["equitability"]) for split in splits)])
    first = "label (equitability)" if multilabel else "class"
    return console.table(rows, [first, *(str(split["split"]) for split in splits)], "lrrr")


def _count(split: dict[str, Any], number: int) -> str:
    count = f"{split['counts'][number]:,}"
    each = split["equitabilities"]
    return f"{count} ({_figure(each[number])})" if each else count


def _pairs_text(answer: dict[str, Any], show: int) -> str:
    from evaluate.audit import COMPARED, KINDS

    found = answer["duplicates"]
    sizes = {split["split"]: split["cases"] for split in answer["splits"]}
    rows: list[list[object]] = []
    for split, other in COMPARED:
        pairs = [p for p in found if (_split(p["case"]), _split(p["twin"])) == (split, other)]
        kinds = [sum(pair["kind"] == kind for pair in pairs) for kind in KINDS]
        cases = {p["case"] for p in pairs} | {p["twin"] for p in pairs if split is other}
        differ = sum(not pair["same_label"] for pair in pairs)
        rows.append([f"{split} in {other}", f"{sizes[split]:,}", *kinds, len(cases), differ])
    blind = answer["images"] != "compared"
    rows = [[*row[:2], "-", *row[3:]] if blind else row for row in rows]
    table = console.table(rows, ["", "cases", *KINDS, "cases concerned", "other label"], "lrrrrrr")
    parts = [f"likely duplicates, pairs ({_near_text(answer)})", table]
    if blind:
        parts.append(f"pixels were not compared: {answer['images']}")
    if found:
        lines = [
            [p["case"], p["twin"], p["kind"], _figure(p["similarity"], 5), p["label"],
             p["twin_label"]]
            for p in found[:show]
        ]  # fmt: skip
        head = ("case", "twin", "likely", "cosine", "label", "its twin's")
        parts += [
            f"{len(lines)} of {len(found)}: those of different labels first, then across splits"
        ]
        parts += [console.table(lines, head, "lllrll")]
    return "\n\n".join(parts)


def _near_text(answer: dict[str, Any]) -> str:
    if answer["near"] is None:
        return "no threshold for near ones could be chosen; give --near"
    how = "chosen: about one false alarm in train" if answer["near_chosen"] else "as given"
    return f"near: cosine from {answer['near']:.5f} on, {how}"


def _suspects_text(answer: dict[str, Any], show: int) -> str:
    found = answer["suspects"]
    counts = []
    for split in answer["splits"]:
        cases = {s["case"] for s in found if _split(s["case"]) == split["split"]}
        compared = split["cases"] - split["zeros"]
        share = f"{100 * len(cases) / compared:.1f} %" if compared else "-"
        counts.append([str(split["split"]), f"{compared:,}", len(cases), share])
    parts = [
        f"labels that all {answer['k']} nearest training cases contradict: likely wrong, or hard",
        console.table(counts, ["", "cases", "contradicted", "share"], "lrrr"),
    ]
    if found:
        lines = [
            [s["case"], s["given"], s["suggested"],
             *(_figure(s[key]) for key in (
                 "strength", "share", "usual", "similarity", "own_similarity"))]
            for s in found[:show]
        ]  # fmt: skip
        head = ("case", "label", "suggested", "strength", "share", "usual", "cosine", "own label's")
        parts += [f"the strongest {len(lines)} of {len(found)}"]
        parts += [console.table(lines, head, "lllrrrrr")]
    return "\n\n".join(parts)


def _split(case: str) -> str:
    return case.split("/")[-2]


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
