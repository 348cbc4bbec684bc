"""What every request can ask for: one object per application, made when it starts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from starlette.requests import Request

from service.classify import Classifier
from service.keyring import Keyring
from service.served import Served
from service.settings import Settings
from service.telemetry import Telemetry
from service.uploads import Limits


@dataclass(frozen=True)
class Context:
    settings: Settings
    limits: Limits
    served: Served
    classifier: Classifier
    keyring: Keyring
    telemetry: Telemetry
    readers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(2, "casebook-images")
    )
    """Reads single images of datasets, apart from all else: a cold one may take seconds."""

    def close(self) -> None:
        self.served.close()
        self.classifier.close()
        self.readers.shutdown(wait=True, cancel_futures=True)


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context
