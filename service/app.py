"""The application: every part of the service wired together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from service import (
    case_routes,
    cases,
    examples,
    gate,
    health_routes,
    openapi,
    page,
    prediction_routes,
    problems,
)
from service.answers import Cases, Indexes
from service.classify import Classifier
from service.context import Context
from service.indexes import listing
from service.keyring import Keyring
from service.served import Served
from service.settings import Settings
from service.telemetry import RequestTelemetry, Telemetry
from service.uploads import Limits

_ABOUT = (
    "Classify a medical image by the training cases nearest to it, and see them. "
    "For research only; not a medical device."
)


def load_context(settings: Settings, keyring: Keyring, report: Callable[[str], None]) -> Context:
    """Load everything that the settings name; ``report`` is told of each step.

    Raises CasebookError where something cannot be served.
    """
    telemetry = Telemetry()
    served = Served(settings, lambda name, size, _: telemetry.batch(name, size), report)
    limits = Limits(settings.max_upload_bytes, int(settings.max_megapixels * 1e6))
    _watch(telemetry, served)
    classifier = Classifier(limits, telemetry.stage)
    return Context(settings, limits, served, classifier, keyring, telemetry)


def _watch(telemetry: Telemetry, served: Served) -> None:
    """Have the state of queues and indexes asked for at each scrape."""
    for cell in served.cells:
        for worker in (cell.embedder, cell.searcher):
            telemetry.watch_queue(worker.name, partial(getattr, worker, "waiting"))
        telemetry.watch_cases(cell.cell.dataset.name, cell.model, cell.cell.size, cell.count)
        telemetry.watch_version(cell.cell.dataset.name, cell.version)


def create_app(context: Context) -> FastAPI:
    """The ASGI application; it closes ``context`` when it shuts down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(context.close)

    app = FastAPI(
        title="casebook", version=version("casebook"), description=_ABOUT, lifespan=lifespan,
        docs_url=None, redoc_url=None, openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.state.context = context
    for routes in (prediction_routes, case_routes, health_routes, examples):
        app.include_router(routes.router)
    page.install(
        app, _Showcase(context), upload_limit=context.limits.max_bytes,
        keyed=context.settings.keys_required,
    )  # fmt: skip
    problems.install(app)
    openapi.install(app, keys_required=context.settings.keys_required)
    gate.install(app, context.settings, context.keyring)
    app.add_middleware(RequestTelemetry, telemetry=context.telemetry)
    return app


@dataclass(frozen=True)
class _Showcase:
    """What the page asks of the service."""

    context: Context

    def indexes(self) -> Indexes:
        return listing(self.context.served, self.context.settings.store / "results")

    def examples(self, dataset: str, count: int, seed: int) -> Cases:
        return cases.sample(self.context.served, dataset, "test", count, seed)
