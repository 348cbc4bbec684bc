"""The form of every answer: what the API promises, field by field."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from embedder.types import Task

CASE_ID = "`dataset/split/row`; the split `added` holds cases that were added"


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Label(Answer):
    index: int = Field(description="Class index or, for a multi-label task, label index.", ge=0)
    name: str = Field(description="Its name.")


class Score(Label):
    score: float = Field(
        description="Share of the vote, or what the probe gives; over all classes they sum to 1, "
        "each label has its own.",
        ge=0, le=1,
    )  # fmt: skip


class Neighbour(Answer):
    rank: int = Field(description="1 is the nearest.", ge=1)
    id: str = Field(description=f"{CASE_ID}.")
    labels: list[Label] = Field(description="Its class; for a multi-label task every label it has.")
    similarity: float = Field(
        description="Cosine of its embedding and the query's.", ge=-1.001, le=1.001
    )
    agrees: bool = Field(description="Whether it has every predicted label; where none is, none.")
    image: str | None = Field(
        description="Link to its image; null where the dataset's file is not at hand."
    )
    licence: str = Field(description="Licence of the image.")


class Familiarity(Answer):
    percentile: float = Field(
        description="Share, in percent, of training cases whose own nearest cases are less similar "
        "to them, on average, than the query's are to it. Near 0: a foreign image.",
        ge=0, le=100,
    )  # fmt: skip
    mean_similarity: float = Field(description="Mean cosine of the query and its k neighbours.")


class Probe(Answer):
    """A linear layer trained on the embeddings, which decides in place of the neighbours."""

    head: str = Field(description="Its file within the store.")
    solver: str = Field(description="What trained it: `adamw` or `lbfgs`.")
    seed: int | None = Field(description="What it was drawn by; null where nothing is drawn.")
    train_cases: int = Field(description="Training cases that it was trained on.", ge=0)
    val_cases: int = Field(description="Validation cases that it was chosen by.", ge=0)
    val_loss: float | None = Field(
        description="Mean log loss on the validation cases that were there when the service "
        "started; null where that is infinite, or there was none.",
        ge=0,
    )
    changes_since: int = Field(
        description="Training and validation cases, added or erased, that it does not know of.",
        ge=0,
    )


class Timings(Answer):
    """Milliseconds."""

    decode: float = Field(description="Reading the image; 0 without one.", ge=0)
    queue: float = Field(description="Waiting for the backbone and the index.", ge=0)
    embed: float = Field(description="Forward pass of the batch; 0 without one.", ge=0)
    search: float = Field(description="Finding the neighbours.", ge=0)
    total: float = Field(description="From the request's last byte to its answer.", ge=0)


class Classification(Answer):
    """A prediction and the cases it rests on or, where a probe decided, those nearest to it."""

    query: str | None = Field(description="Id of the stored case that was asked for; else null.")
    dataset: str = Field(description="Dataset whose training cases were compared.")
    model: str = Field(description="Backbone, as `GET /indexes` names it.")
    res: int = Field(description="Side length of the images, in pixels.")
    task: Task = Field(description="Kind of labels.")
    k: int = Field(description="Number of neighbours.", ge=1, le=100)
    vote: str = Field(description="How they were counted; `probe`: they were not.")
    probe: Probe | None = Field(description="What decided, where it was no vote; else null.")
    label: int | None = Field(description="Predicted class index; null for a multi-label task.")
    label_name: str | None = Field(description="Its name; null for a multi-label task.")
    labels: list[Label] = Field(
        description="What is predicted: one class, or every label with a score above one half."
    )
    scores: list[Score] = Field(description="Score of each class or label, in their order.")
    neighbours: list[Neighbour] = Field(
        description="The nearest cases, the nearest first; they decided unless `probe` is given."
    )
    familiarity: Familiarity | None = Field(
        description="How usual the image is among the training cases; null where there are too few."
    )
    index_version: int = Field(description="Raised by each case that is added or erased.", ge=0)
    fingerprint: str = Field(description="SHA-256 of all that the embeddings depend on.")
    timings: Timings = Field(description="Where the time went, in milliseconds.")


class FieldError(Answer):
    field: str = Field(description="Where in the request: `body.k`, `query.res` ...")
    message: str = Field(description="What is wrong with it.")


class Problem(Answer):
    """RFC 9457 problem details."""

    type: str = Field(description="`about:blank`: the status says what kind of problem it is.")
    title: str = Field(description="The kind of problem in a few words.")
    status: int = Field(description="HTTP status.", ge=400, le=599)
    detail: str = Field(description="What is wrong, and what to do next.")
    request_id: str = Field(description="As in the header X-Request-ID and in the log.")
    errors: list[FieldError] = Field(
        default_factory=list, description="The parameters that are wrong, if that is the problem."
    )


class BatchItem(Answer):
    name: str = Field(description="File name as it was sent.")
    answer: Classification | None = Field(description="Its prediction; null where it failed.")
    problem: Problem | None = Field(description="Why it failed; null where it did not.")


class Batch(Answer):
    items: list[BatchItem] = Field(description="One for each file, in their order.")


class Case(Answer):
    id: str = Field(description=f"{CASE_ID}.")
    dataset: str = Field(description="Its dataset.")
    split: Literal["train", "val", "test", "added"] = Field(description="Where it stands.")
    row: int = Field(description="Its number there.", ge=0)
    labels: list[Label] = Field(description="Its class; for a multi-label task every label it has.")
    image: str | None = Field(description="Link to its image; null where that is not at hand.")
    licence: str = Field(description="Licence of the image.")
    added: str | None = Field(
        description="When it was added (ISO 8601, UTC); null for a stored case."
    )


class Cases(Answer):
    cases: list[Case] = Field(description="Cases drawn at random from the split.")


class Change(Answer):
    id: str = Field(description=f"{CASE_ID}.")
    index_version: int = Field(description="Version of the index that has the change.", ge=1)


class Added(Change):
    labels: list[Label] = Field(description="The labels that it was given.")


class Accuracy(Answer):
    value: float = Field(description="Share of right predictions on the test split.", ge=0, le=1)
    k: int = Field(description="Neighbours that voted.", ge=1)
    vote: str = Field(description="How they were counted.")
    created: str = Field(description="When it was measured (ISO 8601, UTC).")


class ProbeAccuracy(Answer):
    value: float = Field(description="Share of right predictions on the test split.", ge=0, le=1)
    created: str = Field(description="When it was measured (ISO 8601, UTC).")


class IndexProbe(Probe):
    accuracy: ProbeAccuracy | None = Field(
        description="Its latest accuracy on record; null where there is none."
    )


class Index(Answer):
    dataset: str = Field(description="Dataset.")
    model: str = Field(description="Name of the stored variant: backbone and what departs from it.")
    backbone: str = Field(description="Backbone.")
    res: int = Field(description="Side length of the images, in pixels.")
    task: Task = Field(description="Kind of labels.")
    channels: Literal[1, 3] = Field(description="1: grey, 3: RGB.")
    classes: list[str] = Field(description="Name of each class or label.")
    cases: int = Field(description="Training cases that are searched now, added ones included.")
    added: int = Field(description="Of these, added while serving.")
    erased: int = Field(description="Cases erased.")
    test_cases: int = Field(description="Cases of the test split, to try.")
    untrained: bool = Field(description="Whether its backbone has random weights, of no use.")
    images: bool = Field(description="Whether the images are at hand.")
    licence: str = Field(description="Licence of the images.")
    index_version: int = Field(description="Raised by each case that is added or erased.", ge=0)
    fingerprint: str = Field(description="SHA-256 of all that the embeddings depend on.")
    accuracy: list[Accuracy] = Field(
        description="k-NN accuracy on record for these embeddings, by the cosine; may be empty."
    )
    probe: IndexProbe | None = Field(
        description="The linear probe that answers where `vote` is `probe`; null where none does."
    )


class Indexes(Answer):
    indexes: list[Index] = Field(description="What is served, in the order it was asked for.")


class Health(Answer):
    status: Literal["ok"] = Field(description="ok")
