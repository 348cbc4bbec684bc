"""What every request can ask for: one object per application, made when it starts."""

from __future__ import annotations

import asyncio
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
    probes: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """The proof that each worker is asked for now, whoever asks."""

    def close(self) -> None:
        """Drain and let go of everything; a second time to no effect."""
        self.served.close()
        self.classifier.close()


async def context_of(request: Request) -> Context:
    """A coroutine, since FastAPI takes what is none to a thread and back."""
    context: Context = request.app.state.context
    return context
