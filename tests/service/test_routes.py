"""The endpoints, by the application in this process over a tiny dataset of random images."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from embedder.hog import HogBackbone
from embedder.npz import NpzSource
from embedder.store import read_cell
from embedder.types import Pixels, Split
from tests.commands import run
from tests.service.conftest import Tiny, TinyMaker


def png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def picture(seed: int = 0, size: int = 28) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 1), np.uint8)


def classify(tiny: Tiny, pixels: Pixels, **form: object) -> dict[str, Any]:
    answer = tiny.client.post("/classify", files={"file": png(pixels)}, data=form)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def problem(answer: Any, status: int, detail: str) -> dict[str, Any]:
    """The problem in an answer, which must say ``detail``."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert detail in found["detail"], found
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


def add(tiny: Tiny, pixels: Pixels, *labels: str) -> dict[str, Any]:
    answer = tiny.client.post(
        "/cases", files={"file": png(pixels)}, data={"dataset": "tiny", "label": list(labels)},
        headers=tiny.write,
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/cases/{found['id']}"
    return found


def test_an_upload_is_classified_as_scikit_learn_would(tiny: Tiny) -> None:
    source = NpzSource(tiny.npz)
    backbone = HogBackbone()
    train = backbone.embed(source.pick(Split.TRAIN, range(40)))
    nearest = NearestNeighbors(metric="cosine", algorithm="brute").fit(train)
    labels = source.labels(Split.TRAIN)[:, 0]
    for seed in range(5):
        pixels = picture(seed)
        answer = classify(tiny, pixels, k=7)
        distances, rows = nearest.kneighbors(backbone.embed(pixels[None]), 7)
        assert [case["id"] for case in answer["neighbours"]] == [
            f"tiny/train/{row}" for row in rows[0]
        ]
        found = [case["similarity"] for case in answer["neighbours"]]
        assert found == pytest.approx((1 - distances[0]).tolist(), abs=1e-6)
        votes = np.bincount(labels[rows[0]], minlength=3) / 7
        assert [score["score"] for score in answer["scores"]] == pytest.approx(votes.tolist())
        assert answer["label"] == votes.argmax()
        assert answer["label_name"] == str(votes.argmax())
        assert answer["labels"] == [{"index": votes.argmax(), "name": str(votes.argmax())}]
        assert [case["agrees"] for case in answer["neighbours"]] == [
            bool(labels[row] == votes.argmax()) for row in rows[0]
        ]


def test_the_whole_answer(tiny: Tiny) -> None:
    answer = classify(tiny, picture(), k=2)
    cell = read_cell(next(tiny.store.glob("tiny/28/*.h5")))
    assert answer["dataset"] == "tiny"
    assert answer["model"] == "hog"
    assert (answer["res"], answer["task"], answer["k"]) == (28, "multi-class", 2)
    assert (answer["vote"], answer["query"], answer["index_version"]) == ("majority", None, 0)
    assert answer["fingerprint"].startswith("sha256:")
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    assert index["fingerprint"] == answer["fingerprint"]
    first = answer["neighbours"][0]
    row = int(first["id"].rpartition("/")[2])
    label = int(cell.labels(Split.TRAIN)[row, 0])
    assert first == {
        "rank": 1, "id": f"tiny/train/{row}", "labels": [{"index": label, "name": str(label)}],
        "similarity": first["similarity"], "agrees": first["agrees"],
        "image": f"/cases/tiny/train/{row}/image?res=28", "licence": "unknown",
    }  # fmt: skip
    assert 0 <= answer["familiarity"]["percentile"] <= 100
    mean = sum(case["similarity"] for case in answer["neighbours"]) / 2
    assert answer["familiarity"]["mean_similarity"] == pytest.approx(mean)
    assert set(answer["timings"]) == {"decode", "queue", "embed", "search", "total"}
    parts = answer["timings"]
    assert parts["total"] >= parts["decode"] + parts["embed"] + parts["search"]


@pytest.mark.parametrize("vote", ["majority", "distance", "softmax"])
def test_each_vote(tiny: Tiny, vote: str) -> None:
    answer = classify(tiny, picture(), vote=vote, k=5)
    weights = {
        "majority": lambda s: np.ones(5),
        "distance": lambda s: s,
        "softmax": lambda s: np.exp(s / 0.07),
    }[vote](np.array([case["similarity"] for case in answer["neighbours"]]))
    expected = np.zeros(3)
    for case, weight in zip(answer["neighbours"], weights, strict=True):
        expected[case["labels"][0]["index"]] += weight
    found = [score["score"] for score in answer["scores"]]
    assert found == pytest.approx((expected / expected.sum()).tolist())


def test_an_upload_of_another_shape_is_cropped_and_resized(tiny: Tiny) -> None:
    wide = np.zeros((56, 100, 1), np.uint8)
    wide[:, 22:78] = np.kron(picture()[..., 0], np.ones((2, 2), np.uint8))[..., None]
    square = Image.fromarray(wide[:, 22:78, 0]).resize((28, 28), Image.Resampling.BICUBIC)
    expected = classify(tiny, np.asarray(square)[..., None], k=11)
    found = classify(tiny, wide, k=11)
    assert found["neighbours"] == expected["neighbours"]


def test_a_training_image_finds_itself(tiny: Tiny) -> None:
    pixels = NpzSource(tiny.npz).pick(Split.TRAIN, [5])[0]
    answer = classify(tiny, pixels, k=1)
    assert answer["neighbours"][0]["id"] == "tiny/train/5"
    assert answer["neighbours"][0]["similarity"] == pytest.approx(1)
    assert answer["familiarity"]["percentile"] == 100


def test_search_by_id_leaves_the_case_itself_out(tiny: Tiny) -> None:
    for name in ("tiny/train/5", "tiny/test/5", "tiny/val/0"):
        answer = tiny.client.post("/search", json={"id": name, "k": 39}).json()
        assert answer["query"] == name
        assert name not in [case["id"] for case in answer["neighbours"]]
        assert answer["timings"]["embed"] == answer["timings"]["decode"] == 0
    problem(tiny.client.post("/search", json={"id": "tiny/train/5", "k": 40}), 422, "use 1 to 39")
    problem(tiny.client.post("/search", json={"id": "tiny/test/12"}), 404, "no case tiny/test/12")


def test_search_by_embedding(tiny: Tiny) -> None:
    cell = read_cell(next(tiny.store.glob("tiny/28/*.h5")))
    vector = cell.embeddings(Split.TRAIN)[3].tolist()
    answer = tiny.client.post("/search", json={"embedding": vector, "k": 1}).json()
    assert answer["neighbours"][0]["id"] == "tiny/train/3"
    short = tiny.client.post("/search", json={"embedding": [1.0, 2.0]})
    problem(short, 422, "an embedding of hog is 324 finite numbers")
    zero = tiny.client.post("/search", json={"embedding": [0.0] * 324})
    problem(zero, 422, "the embedding is zero")
    large = tiny.client.post("/search", json={"embedding": [1e300] * 324})
    problem(large, 422, "324 finite numbers")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "either an id or an embedding"),
        ({"id": "tiny/test/0", "embedding": [1]}, "either an id or an embedding"),
        ({"id": "tiny/test"}, "write it as dataset/train/0"),
        ({"id": "tiny/test/-1"}, "write it as dataset/train/0"),
        ({"id": "tiny/test/²"}, "write it as dataset/train/0"),
        ({"id": "tine/test/0"}, "did you mean tiny?"),
        ({"id": "tiny/test/0", "dataset": "other"}, "is no case of other"),
        ({"id": "tiny/test/0", "k": 0}, "body.k"),
        ({"id": "tiny/test/0", "vote": "all"}, "body.vote"),
        ({"id": "tiny/test/0", "model": "hug"}, "did you mean hog?"),
        ({"id": "tiny/test/0", "res": 64}, "64 px is not served; served: 28"),
        ({"id": "tiny/test/0", "more": 1}, "body.more"),
    ],
)
def test_wrong_searches(tiny: Tiny, body: dict[str, object], detail: str) -> None:
    problem(tiny.client.post("/search", json=body), 422, detail)


def test_wrong_uploads(tiny: Tiny) -> None:
    post = tiny.client.post
    problem(post("/classify", files={"file": b"GIF89a" + bytes(50)}), 415, "PNG, JPEG")
    problem(post("/classify", files={"file": png(picture())[:300]}), 422, "")
    problem(post("/classify", files={"file": b""}), 422, "")
    problem(post("/classify", files={"file": bytes(10_000_001)}), 413, "")
    problem(post("/classify", files={"file": bytes(12_000_000)}), 413, "")
    problem(post("/classify"), 422, "body.file")
    blank = np.full((28, 28, 1), 7, np.uint8)
    problem(post("/classify", files={"file": png(blank)}), 422, "an image that is blank")
    problem(post("/classify", files={"file": png(picture())}, data={"k": 41}), 422, "use 1 to 40")


@pytest.mark.parametrize(
    ("form", "query", "detail"),
    [
        ({"kk": 3}, "", "unknown form field 'kk'; did you mean k?"),
        ({"k": ""}, "", "k is empty; give a value, or leave it out"),
        ({"k": [3, 5]}, "", "k is given 2 times; give it once"),
        ({}, "?k=3", "no query parameter is taken here; 'k' belongs elsewhere"),
    ],
)
def test_a_form_is_taken_at_its_word(
    tiny: Tiny, form: dict[str, object], query: str, detail: str
) -> None:
    files = {"file": png(picture())}
    problem(tiny.client.post(f"/classify{query}", files=files, data=form), 422, detail)


def test_two_files_or_none(tiny: Tiny) -> None:
    two = [("file", ("a.png", png(picture()))), ("file", ("b.png", png(picture())))]
    problem(tiny.client.post("/classify", files=two), 422, "file is given 2 times")
    plain = tiny.client.post("/classify", data={"file": "a.png"})
    problem(plain, 422, "send a file")
    text = tiny.client.post("/search", content=b'{"id": "tiny/test/0"}')
    problem(text, 422, "send JSON, with the header Content-Type: application/json")
    unknown = tiny.client.get("/cases", params={"dataset": "tiny", "foo": 1})
    problem(unknown, 422, "unknown query parameter 'foo'")


def test_a_tag_among_several(tiny: Tiny) -> None:
    link = "/cases/tiny/test/0/image"
    tag = tiny.client.get(link).headers["etag"]
    for given in (tag, f"W/{tag}", f'"x", {tag}'):
        assert tiny.client.get(link, headers={"If-None-Match": given}).status_code == 304
    assert tiny.client.get(link, headers={"If-None-Match": '"x"'}).status_code == 200


def test_one_bad_file_of_a_batch_fails_alone(tiny: Tiny) -> None:
    files = [("files", (f"{n}.png", png(picture(n)))) for n in range(20)]
    files[3] = ("files", ("bad.png", b"nothing"))
    files[7] = ("files", ("blank.png", png(np.zeros((28, 28, 1), np.uint8))))
    answer = tiny.client.post("/classify/batch", files=files, data={"k": 3})
    assert answer.status_code == 200
    items = answer.json()["items"]
    assert [item["name"] for item in items] == [name for _, (name, _) in files]
    failed = {n: item["problem"]["status"] for n, item in enumerate(items) if item["problem"]}
    assert failed == {3: 415, 7: 422}
    for n in (0, 19):
        single = classify(tiny, picture(n), k=3)
        assert items[n]["answer"]["neighbours"] == single["neighbours"]
    many = [("files", ("x.png", b"x"))] * 65
    problem(tiny.client.post("/classify/batch", files=many), 413, "at most 64")


def test_an_unforeseen_error_of_one_file_is_its_own(tiny: Tiny) -> None:
    """The backbone fails on one image, as it may for want of memory."""
    (cell,) = tiny.client.app.state.context.served.cells  # type: ignore[attr-defined]
    embed = cell.embedder._process

    def fail(batch: list[Pixels]) -> Any:
        if any(pixels[0, 0, 0] == 255 for pixels in batch):
            raise RuntimeError("kernel failed")
        return embed(batch)

    cell.embedder._process = fail
    bad = picture(1)
    bad[0, 0] = 255
    files = [("files", ("x.png", png(pixels))) for pixels in (picture(2), bad, picture(3))]
    items = tiny.client.post("/classify/batch", files=files).json()["items"]
    assert [item["problem"] and item["problem"]["status"] for item in items] == [None, 500, None]
    assert "kernel" not in items[1]["problem"]["detail"]


def test_a_picture_that_comes_too_late(make_tiny: TinyMaker) -> None:
    tiny = make_tiny(deadline=0.2)
    (cell,) = tiny.client.app.state.context.served.cells  # type: ignore[attr-defined]
    wait = Event()
    cell.reader.submit(wait.wait)
    problem(tiny.client.get("/cases/tiny/train/0/image"), 504, "no answer within 0.2 s")
    wait.set()
    assert tiny.client.get("/cases/tiny/train/0/image").status_code == 200


def test_whoever_asks_whether_it_is_ready_shares_one_proof(tiny: Tiny) -> None:
    with ThreadPoolExecutor(16) as many:
        answers = list(many.map(lambda _: tiny.client.get("/readyz").status_code, range(64)))
    assert answers == [200] * 64
    assert 'casebook_batch_size_sum{worker="hog"} 1.0' in tiny.client.get("/metrics").text


def test_a_batch_larger_than_the_queue_waits(make_tiny: TinyMaker) -> None:
    tiny = make_tiny(queue=2)
    files = [("files", (f"{n}.png", png(picture(n)))) for n in range(30)]
    items = tiny.client.post("/classify/batch", files=files).json()["items"]
    assert all(item["answer"] for item in items)


def test_cases_and_their_images(tiny: Tiny) -> None:
    source = NpzSource(tiny.npz)
    for split, row in (("train", 39), ("val", 0), ("test", 11)):
        case = tiny.client.get(f"/cases/tiny/{split}/{row}").json()
        label = int(source.labels(Split(split))[row, 0])
        assert case == {
            "id": f"tiny/{split}/{row}", "dataset": "tiny", "split": split, "row": row,
            "labels": [{"index": label, "name": str(label)}], "licence": "unknown",
            "image": f"/cases/tiny/{split}/{row}/image?res=28", "added": None,
        }  # fmt: skip
        answer = tiny.client.get(case["image"])
        assert answer.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(answer.content)) as image:
            pixels = np.asarray(image)
        assert (pixels == source.pick(Split(split), [row])[0, ..., 0]).all()
        again = tiny.client.get(case["image"], headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "no-cache" in answer.headers["cache-control"]
    problem(tiny.client.get("/cases/tiny/train/40"), 404, "no case tiny/train/40")
    problem(tiny.client.get("/cases/tiny/train/40/image"), 404, "no case tiny/train/40")
    problem(tiny.client.get("/cases/other/train/4"), 404, "other is not served")
    problem(tiny.client.get("/cases/tiny/train/4/image?res=64"), 404, "tiny at 64 px")
    problem(tiny.client.get("/cases/tiny/nowhere/4"), 422, "path.split")


def test_a_sample_of_cases(tiny: Tiny) -> None:
    first = tiny.client.get("/cases", params={"dataset": "tiny", "count": 5}).json()["cases"]
    assert len({case["id"] for case in first}) == 5
    assert all(case["split"] == "test" for case in first)
    other = tiny.client.get("/cases", params={"dataset": "tiny", "count": 5, "seed": 1}).json()
    assert other["cases"] != first
    unknown = tiny.client.get("/cases", params={"dataset": "none"})
    problem(unknown, 422, "unknown served dataset 'none'")


def test_a_case_is_added_and_erased(tiny: Tiny) -> None:
    pixels = picture(99)
    added = add(tiny, pixels, "2")
    label = {"index": 2, "name": "2"}
    assert added == {"id": "tiny/added/1", "index_version": 1, "labels": [label]}
    answer = classify(tiny, pixels, k=1)
    assert (answer["index_version"], answer["label"]) == (1, 2)
    first = answer["neighbours"][0]
    assert (first["id"], first["similarity"]) == ("tiny/added/1", pytest.approx(1))
    case = tiny.client.get("/cases/tiny/added/1").json()
    assert case["added"] is not None
    with Image.open(io.BytesIO(tiny.client.get(first["image"]).content)) as image:
        assert (np.asarray(image) == pixels[..., 0]).all()
    (index,) = tiny.client.get("/indexes").json()["indexes"]
    assert (index["cases"], index["added"], index["erased"]) == (41, 1, 0)

    erased = tiny.client.delete("/cases/tiny/added/1", headers=tiny.write)
    assert erased.json() == {"id": "tiny/added/1", "index_version": 2}
    for address in ("/cases/tiny/added/1", "/cases/tiny/added/1/image"):
        problem(tiny.client.get(address), 404, "no case tiny/added/1")
    problem(tiny.client.post("/search", json={"id": "tiny/added/1"}), 404, "no case")
    problem(tiny.client.delete("/cases/tiny/added/1", headers=tiny.write), 404, "no case")
    assert classify(tiny, pixels, k=1)["neighbours"][0]["id"] != "tiny/added/1"


def test_a_stored_case_is_erased_and_stays_so(tiny: Tiny, make_tiny: TinyMaker) -> None:
    link = "/cases/tiny/train/5/image"
    tag = tiny.client.get(link).headers["etag"]
    gone = tiny.client.delete("/cases/tiny/train/5", headers=tiny.write)
    assert gone.json() == {"id": "tiny/train/5", "index_version": 1}
    pixels = NpzSource(tiny.npz).pick(Split.TRAIN, [5])[0]
    for client in (tiny, None):
        if client is None:  # once more after a restart
            tiny.client.__exit__(None, None, None)
            client = make_tiny()
        assert classify(client, pixels, k=1)["neighbours"][0]["id"] != "tiny/train/5"
        problem(client.client.get("/cases/tiny/train/5"), 404, "no case")
        problem(client.client.get(link, headers={"If-None-Match": tag}), 404, "no case")
        (index,) = client.client.get("/indexes").json()["indexes"]
        assert (index["cases"], index["erased"], index["index_version"]) == (39, 1, 1)
    assert NpzSource(tiny.npz).pick(Split.TRAIN, [5])[0].tolist() == pixels.tolist()


def test_who_may_change_cases(tiny: Tiny) -> None:
    files, form = {"file": png(picture())}, {"dataset": "tiny", "label": "1"}
    for head, status in (({}, 401), (tiny.read, 403), ({"Authorization": "Bearer cb_x"}, 401)):
        answer = tiny.client.post("/cases", files=files, data=form, headers=head)
        assert answer.status_code == status
        assert tiny.client.delete("/cases/tiny/train/0", headers=head).status_code == status
    key = tiny.write["Authorization"].removeprefix("Bearer ")
    assert tiny.client.delete("/cases/tiny/train/0", auth=("me", key)).status_code == 401
    run(tiny.store.parent, "casebook", "keys", "revoke", key.split("_")[1])
    problem(tiny.client.delete("/cases/tiny/train/0", headers=tiny.write), 401, "revoked")
    assert tiny.client.get("/cases/tiny/train/0").status_code == 200


@pytest.mark.parametrize(
    ("labels", "detail"),
    [
        ([], "body.label"),
        ([""], "unknown label ''"),
        (["0", "1"], "give one, not 2"),
        (["3"], "label 3 is none of 0 to 2"),
        (["99999999999"], "is none of 0 to 2"),
        (["-1"], "unknown label '-1'"),
    ],
)
def test_wrong_labels(tiny: Tiny, labels: list[str], detail: str) -> None:
    answer = tiny.client.post(
        "/cases", files={"file": png(picture())}, data={"dataset": "tiny", "label": labels},
        headers=tiny.write,
    )  # fmt: skip
    problem(answer, 422, detail)
    assert tiny.client.get("/indexes").json()["indexes"][0]["index_version"] == 0


def test_a_blank_image_is_not_added(tiny: Tiny) -> None:
    answer = tiny.client.post(
        "/cases", files={"file": png(np.zeros((28, 28, 1), np.uint8))},
        data={"dataset": "tiny", "label": "1"}, headers=tiny.write,
    )  # fmt: skip
    problem(answer, 422, "an image that is blank has no features for this backbone")
    assert tiny.client.get("/indexes").json()["indexes"][0]["index_version"] == 0


def test_several_labels(make_tiny: TinyMaker) -> None:
    tiny = make_tiny({"label_count": 4, "classes": 2})
    first = tiny.client.post("/search", json={"id": "tiny/test/0", "k": 3}).json()
    assert first["task"] == "multi-label"
    assert first["label"] is first["label_name"] is None
    marks = np.array(
        [
            [number in {label["index"] for label in case["labels"]} for number in range(4)]
            for case in first["neighbours"]
        ]
    )
    assert [score["score"] for score in first["scores"]] == pytest.approx(marks.mean(0).tolist())
    present = [number for number in range(4) if marks[:, number].mean() > 0.5]
    assert [label["index"] for label in first["labels"]] == present
    assert add(tiny, picture(1), "1", "3")["id"] == "tiny/added/1"
    assert add(tiny, picture(2), "")["id"] == "tiny/added/2"
    nothing = tiny.client.post(
        "/cases", files={"file": png(picture())}, data={"dataset": "tiny"}, headers=tiny.write
    )
    problem(nothing, 422, "body.label")
    labels = [tiny.client.get(f"/cases/tiny/added/{n}").json()["labels"] for n in (1, 2)]
    assert labels == [[{"index": 1, "name": "1"}, {"index": 3, "name": "3"}], []]


def test_without_the_dataset_file(tiny: Tiny, make_tiny: TinyMaker) -> None:
    tiny.client.__exit__(None, None, None)
    tiny = make_tiny(dataset=("tiny",))
    answer = classify(tiny, picture())
    assert [case["image"] for case in answer["neighbours"]] == [None] * 11
    assert tiny.client.get("/cases/tiny/train/0").json()["image"] is None
    problem(tiny.client.get("/cases/tiny/train/0/image"), 404, "not at hand")
    assert tiny.client.get("/indexes").json()["indexes"][0]["images"] is False


def test_accuracies_on_record(tiny: Tiny) -> None:
    assert tiny.client.get("/indexes").json()["indexes"][0]["accuracy"] == []
    run(tiny.store.parent, "knn-eval", "--k", "3,1")
    run(tiny.store.parent, "knn-eval", "--k", "3", "--vote", "softmax")
    run(tiny.store.parent, "knn-eval", "--k", "3", "--distance", "euclidean")
    run(tiny.store.parent, "knn-eval", "--k", "3", "--split", "val")
    found = tiny.client.get("/indexes").json()["indexes"][0]["accuracy"]
    assert [(each["k"], each["vote"]) for each in found] == [
        (1, "majority"), (3, "majority"), (3, "softmax"),
    ]  # fmt: skip
    records = [json.loads(path.read_text()) for path in (tiny.store / "results").glob("*.json")]
    values = {record["metrics"]["accuracy"] for record in records if record["protocol"]["k"] == 1}
    assert found[0]["value"] in values


def test_health_and_metrics(tiny: Tiny) -> None:
    assert tiny.client.get("/livez").json() == {"status": "ok"}
    assert tiny.client.get("/readyz").json() == {"status": "ok"}
    classify(tiny, picture())
    text = tiny.client.get("/metrics").text
    for line in (
        'casebook_requests_total{method="POST",route="/classify",status="200"} 1.0',
        'casebook_stage_seconds_count{stage="embed"} 1.0',
        'casebook_batch_size_count{worker="hog"} 2.0',
        'casebook_queue_depth{worker="hog"} 0.0',
        'casebook_index_cases{dataset="tiny",model="hog",res="28"} 40.0',
        'casebook_index_version{dataset="tiny"} 0.0',
    ):
        assert line in text


def test_keys_for_reading(make_tiny: TinyMaker) -> None:
    tiny = make_tiny(require_key=True)
    for address in ("/indexes", "/", "/cases/tiny/train/0", "/metrics"):
        answer = tiny.client.get(address)
        problem(answer, 401, "API key")
        assert answer.headers.get_list("www-authenticate") == [
            'Bearer realm="casebook"', 'Basic realm="casebook"',
        ]  # fmt: skip
        assert tiny.client.get(address, headers=tiny.read).status_code == 200
        key = tiny.read["Authorization"].removeprefix("Bearer ")
        assert tiny.client.get(address, auth=("anyone", key)).status_code == 200
    assert tiny.client.get("/livez").status_code == 200
    assert tiny.client.get("/static/page.css").status_code == 200
