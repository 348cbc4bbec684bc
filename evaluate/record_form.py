"""What the JSON of a result record must be: a record is a file, which anyone may have edited.

The fields are described in docs/evaluation.md. Those with a default came later than others, or are
of an evaluation that asked for them.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from embedder.errors import EvaluationError
from embedder.types import Distance, Split, Task
from evaluate.thresholds import Criterion

_ROUNDING = 1e-9
"""By so much a figure may leave its range."""

_LONGEST = 60
"""Letters of a wrong value that a message shows."""

_LONGEST_NAME = 200

_TAGS = ("knn", "probe", "adamw", "lbfgs")
"""What pydantic adds to the place of a field: which of several forms it belongs to."""


def _a_name(text: str) -> str:
    if not text or len(text) > _LONGEST_NAME or not text.isprintable() or text in (".", ".."):
        raise ValueError("it is no name")
    if "/" in text or "\\" in text:
        raise ValueError("a name has no slash")
    return text


def _inside(path: str) -> str:
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts or not path.isprintable():
        raise ValueError("it is no path within the store")
    return path


_Name = Annotated[str, AfterValidator(_a_name)]
_Number = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1 + _ROUNDING)]
_Figure = Annotated[float, Field(ge=-1 - _ROUNDING, le=1 + _ROUNDING)]
_Amount = Annotated[float, Field(ge=0)]
_Numbers = Annotated[list[_Amount], Field(min_length=1)]
_MetricName = Literal["accuracy", "balanced_accuracy", "kappa", "precision", "auc"]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Metrics(_Form):
    accuracy: _Share
    balanced_accuracy: _Share | None
    kappa: _Figure | None
    precision: _Share | None
    auc: _Share | None
    notes: list[str]


class _Counts(_Form):
    support: _Number
    queries: _Number
    classes: _Number
    erased: _Number = 0


class _Fingerprint(_Form):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | None]

    checkpoint: str


class _Interval(_Form):
    estimate: _Figure | None
    low: _Figure | None
    high: _Figure | None
    level: Annotated[float, Field(gt=0, lt=1)]
    resamples: _Positive
    seed: _Number
    undefined: _Number
    notes: list[str]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("one bound is there without the other")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("its low is above its high")
        return self


class _Thresholds(_Form):
    criterion: Annotated[Criterion, Field(strict=False)]
    values: list[_Share]
    notes: list[str]


class _Knn(_Form):
    k: _Positive
    distance: Annotated[Distance, Field(strict=False)]
    vote: Literal["majority", "distance", "softmax"]
    temperature: Annotated[float, Field(gt=0)] | None
    support: Literal["train"]
    leave_one_out: bool
    tie: str
    index: str
    k_from: Annotated[list[_Positive], Field(min_length=1)] | None = None
    k_by: str | None = None
    priors: Literal["uniform"] | None = None
    thresholds: _Thresholds | None = None
    shots: _Positive | None = None
    draw: _Number | None = None
    k_asked: _Positive | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.vote == "softmax") != (self.temperature is not None):
            raise ValueError("a temperature belongs to a softmax vote, and to no other")
        if (self.k_from is None) != (self.k_by is None):
            raise ValueError("k_from and k_by belong together")
        if (self.shots is None) != (self.draw is None):
            raise ValueError("shots and draw belong together")
        return self


class _Head(_Form):
    head: Annotated[str, AfterValidator(_inside)]
    notes: list[str]
    device: str | None = None


class _AdamW(_Head):
    solver: Literal["adamw"]
    seeds: Annotated[list[_Number], Field(min_length=1)]
    learning_rates: _Numbers
    weight_decays: _Numbers
    batch: _Positive
    epochs: _Positive
    patience: _Number
    schedule: str
    seed: _Number
    learning_rate: _Amount
    weight_decay: _Amount
    best_epoch: _Number
    loss: float


class _Logistic(_Head):
    solver: Literal["lbfgs"]
    seed: None
    cs: list[_Amount | None]
    c: list[_Amount | None] | None = None
    rises: _Positive | None = None
    losses: list[list[float]]
    tolerance: _Amount
    iterations: _Positive
    standardised: bool


class _Record(_Form):
    format: str
    version: Annotated[int, Field(alias="schema")]
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}")]
    dataset: _Name
    task: Annotated[Task, Field(strict=False)]
    size: _Positive
    variant: _Name
    split: Annotated[Split, Field(strict=False)]
    metrics: _Metrics
    counts: _Counts
    fingerprint: _Fingerprint
    timings: dict[str, _Amount]
    versions: dict[str, str]
    embedding_versions: dict[str, str]
    intervals: dict[_MetricName, _Interval] | None = None
    confusion: list[list[list[_Number]]] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.intervals and "accuracy" not in self.intervals:
            raise ValueError("its intervals lack that of the accuracy")
        if self.confusion is None:
            return self
        classes, is_multilabel = self.counts.classes, self.task is Task.MULTILABEL
        count, side = (classes, 2) if is_multilabel else (1, classes)
        lengths = {len(table) for table in self.confusion}
        lengths |= {len(line) for table in self.confusion for line in table}
        if len(self.confusion) != count or lengths - {side}:
            raise ValueError(f"its confusion is not of {classes} classes")
        if any(sum(map(sum, table)) != self.counts.queries for table in self.confusion):
            raise ValueError(f"its confusion is not of {self.counts.queries} queries")
        return self


class _KnnRecord(_Record):
    kind: Literal["knn"]
    protocol: _Knn


class _ProbeRecord(_Record):
    kind: Literal["probe"]
    protocol: Annotated[_AdamW | _Logistic, Field(discriminator="solver")]


_ANY: TypeAdapter[_KnnRecord | _ProbeRecord] = TypeAdapter(
    Annotated[_KnnRecord | _ProbeRecord, Field(discriminator="kind")]
)


def check(facts: object) -> None:
    """Raise EvaluationError, naming a field, where ``facts`` have not the form of a record."""
    try:
        _ANY.validate_python(facts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        said = _said(first["loc"], first["msg"], first["input"])
        raise EvaluationError(f"it is no result record ({said})") from error


def _said(place: tuple[int | str, ...], message: str, value: Any) -> str:
    where = ".".join(str(part) for part in place if part not in _TAGS)
    text = message.removeprefix("Value error, ")
    shown = "" if isinstance(value, dict | list) else f", not {_shortened(repr(value))}"
    return f"{_shortened(where)}: {text}{shown}" if where else f"{text}{shown}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
