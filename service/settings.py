"""The settings of the service; nothing else in this package reads the environment."""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import limits
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from embedder import console
from embedder.errors import UsageError

PREFIX = "CASEBOOK_"
_OTHERS = {"CASEBOOK_DEBUG", "CASEBOOK_KEY", "CASEBOOK_MIRROR"}
"""Variables that other packages, and commands that the page copies, read."""

_MAY_BE_EMPTY = {"trusted_proxies"}

_RATE = re.compile(r"[1-9][0-9]{0,8}/([1-9][0-9]{0,3} )?(second|minute|hour|day)s?")

Size = Annotated[int, Field(ge=1, le=10_000)]
Amount = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Grace = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Words = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """A variable that is empty is as one not set, but for CASEBOOK_TRUSTED_PROXIES."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    store: Path = Field(Path("store"), description="Embeddings, and the cases added to them.")
    data: Path = Field(Path("~/.medmnist"), description="MedMNIST+ files, for the images.")
    dataset: Words = Field((), description="Dataset to serve, by name or path; none: every one.")
    model: Words = Field((), description="Variant or backbone to serve; none: every one.")
    res: Annotated[tuple[Size, ...], NoDecode] = Field(
        (), description="Side length to serve, in pixels; none: every one."
    )
    weights: Path | None = Field(
        None, description="Weights file, for embeddings that were made with one."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where backbones run.")
    index: Literal["auto", "faiss", "faiss-gpu", "reference"] = Field(
        "auto", description="What searches; all of them answer alike."
    )
    batch_limit: int = Field(64, ge=1, le=1024, description="Most images in a forward pass.")
    queue: int = Field(64, ge=1, le=10_000, description="Places of each queue; full: 429.")
    deadline: Seconds = Field(30.0, description="Seconds in which a request is answered, or 504.")
    max_upload_mb: Amount = Field(10.0, description="Most megabytes (10^6 bytes) of a file.")
    max_megapixels: Amount = Field(50.0, description="Most megapixels of an image.")
    max_batch_mb: Amount = Field(128.0, description="Most megabytes of a batch request.")
    rate_limit: str = Field(
        "6000/minute", description="Most requests of a key or, without one, an address; or none."
    )
    require_key: bool | None = Field(
        None, description="Whether reading needs a key; unset: only where the host is not loopback."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses and networks whose X-Forwarded-For is believed, with commas, "
        "or *; empty: none.",
    )
    allowed_hosts: Words = Field(
        (),
        description="Names in the Host header that are answered, besides localhost; "
        "none: any, or on loopback only localhost.",
    )
    drain: Grace = Field(30.0, description="Seconds that a shutdown gives to running requests.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged; debug: probes too."
    )

    @property
    def keys_required(self) -> bool:
        """Whether reading needs a key; writing always does."""
        return not is_loopback(self.host) if self.require_key is None else self.require_key

    @property
    def rate(self) -> limits.RateLimitItem | None:
        return None if self.rate_limit == "none" else limits.parse(self.rate_limit)

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1e6)

    @property
    def max_batch_bytes(self) -> int:
        return int(self.max_batch_mb * 1e6)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if v != "" or k in _MAY_BE_EMPTY}

    @field_validator("dataset", "model", "res", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        parts = value if isinstance(value, list | tuple) else [value]
        words = [word.strip() for part in parts for word in str(part).split(",")]
        if "" in words:
            raise ValueError("has an empty value; name something, or leave it out")
        return tuple(dict.fromkeys(words))

    @field_validator("store", "data", "weights")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        try:
            return value and value.expanduser()
        except RuntimeError as error:
            raise ValueError(f"{str(value)[:40]!r} is in no known home folder") from error

    @field_validator("host", "allowed_hosts")
    @classmethod
    def _host(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        names = [value] if isinstance(value, str) else value
        plain = tuple(name.removeprefix("[").removesuffix("]").lower() for name in names)
        for name in plain:
            if not (re.fullmatch(r"[a-z0-9._-]+", name) or _is_address(name)):
                raise ValueError(f"{name[:40]!r} is no host name or address, without port")
        return plain[0] if isinstance(value, str) else plain

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str) -> str:
        if value != "none" and not _RATE.fullmatch(value):
            raise ValueError(
                f"{value[:40]!r} is not like 100/minute (second, minute, hour or day), or none"
            )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: str) -> str:
        words = [word.strip() for word in value.split(",")] if value.strip() else []
        for word in words:
            if word != "*" and not _is_network(word):
                raise ValueError(f"{word[:40]!r} is no address or network, as 10.0.0.0/8")
        if "*" in words and len(words) > 1:
            raise ValueError("* stands alone; it believes every address")
        return ",".join(words)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    name = host.removeprefix("[").removesuffix("]").lower()
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def add_flags(parser: console.Parser) -> None:
    """A flag for each setting; None where it is not given."""
    for name, field in Settings.model_fields.items():
        text = f"{_meaning(field)} (default {_default(field)}; {_variable(name)})"
        options: dict[str, Any] = {"dest": name, "help": text.replace("%", "%%")}
        if _is_switch(field):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = _metavar(field)
            options["action"] = "append" if _is_tuple(field) else "store"
        parser.add_argument(_flag(name), **options)


def from_options(options: argparse.Namespace) -> Settings:
    """Flags that are given, over the environment, over the defaults; UsageError for a wrong one."""
    _refuse_unknown_variables(os.environ)
    given = {
        name: value
        for name in Settings.model_fields
        if (value := getattr(options, name, None)) is not None
    }
    for name, value in given.items():
        if value == "" and name not in _MAY_BE_EMPTY:
            raise UsageError(f"{_flag(name)} has an empty value; give one, or leave the option out")
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        source = _flag(name) if name in given else _variable(name)
        raise UsageError(f"{source}: {_complaint(name, first)}") from None


def settings_table() -> str:
    """The settings as a Markdown table, for docs/service.md."""
    rows = ["| Flag | Variable | Default | Meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = f"`{_flag(name)} {_metavar(field)}`"
        if _is_switch(field):
            flag = f"`{_flag(name)}`, `--no-{_flag(name)[2:]}`"
        default = _default(field)
        shown = default if default in ("none", "unset") else f"`{default}`"
        cells = (flag, f"`{_variable(name)}`", shown, _meaning(field))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = {_variable(name) for name in Settings.model_fields} | _OTHERS
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            names = {one.removeprefix(PREFIX): one for one in sorted(known)}
            near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), names, n=1)
            hint = (
                f"did you mean {names[near[0]]}?"
                if near
                else "unset it, or see casebook serve --help"
            )
            raise UsageError(f"no setting is called {name}; {hint}")


def _complaint(name: str, error: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    field = Settings.model_fields[name]
    return f"{str(error['input'])[:40]!r} is not allowed; give {_allowed(field)}"


def _allowed(field: FieldInfo) -> str:
    kind, metadata = field.annotation, field.metadata
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if _is_switch(field):
        return "true or false"
    if _is_tuple(field):
        metadata = [*metadata, *get_args(get_args(kind)[0])[1].metadata]
    parts = ["whole numbers" if _is_tuple(field) else "a number" if kind is float
             else "a whole number"]  # fmt: skip
    for attribute, words in (("gt", "above {} and up"), ("ge", "from {}"), ("le", "to {}")):
        bounds = [getattr(part, attribute, None) for part in metadata]
        parts += [words.format(bound) for bound in bounds if bound is not None]
    return " ".join(parts)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _meaning(field: FieldInfo) -> str:
    text = (field.description or "").removesuffix(".")
    return f"{text}; repeatable or with commas" if _is_tuple(field) else text


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, Path):
        return str(value) if str(value).startswith(("~", "/")) else f"./{value}"
    if value is None:
        return "unset"
    return "none" if value == () else f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    name = str(field.annotation)
    return "PATH" if "Path" in name else "N" if "int" in name or "float" in name else "TEXT"


def _is_tuple(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _is_switch(field: FieldInfo) -> bool:
    return bool in get_args(field.annotation)
