"""The errors of the service: what each is called over HTTP, and its status.

CasebookError
└── ServiceError             500
    ├── BadRequestError      422  a parameter is wrong, beyond what its type says
    ├── BadUploadError       422  the bytes are no image that can be read
    ├── UnsupportedTypeError 415  the file is of a kind that is not read
    ├── TooLargeError        413  too many bytes, pixels or files
    ├── NoKeyError           401  no API key, or one that is unknown or revoked
    ├── ForbiddenError       403  the key's scope does not cover the request
    ├── NotFoundError        404  no such case, or erased
    ├── OverloadedError      429  the queue or the rate limit is full; ``retry_after`` seconds
    ├── DeadlineError        504  not answered in time
    └── UnavailableError     503  a worker has failed, or the service is shutting down
"""

from __future__ import annotations

from embedder.errors import CasebookError


class ServiceError(CasebookError):
    status = 500
    title = "Internal error"


class BadRequestError(ServiceError):
    status = 422
    title = "Invalid request"


class BadUploadError(ServiceError):
    status = 422
    title = "Unreadable image"


class UnsupportedTypeError(ServiceError):
    status = 415
    title = "Unsupported file type"


class TooLargeError(ServiceError):
    status = 413
    title = "Upload too large"


class NoKeyError(ServiceError):
    status = 401
    title = "API key required"


class ForbiddenError(ServiceError):
    status = 403
    title = "Not allowed"


class NotFoundError(ServiceError):
    status = 404
    title = "Not Found"


class OverloadedError(ServiceError):
    """``retry_after`` is in whole seconds."""

    status = 429
    title = "Too many requests"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClientGoneError(ServiceError):
    status = 499
    title = "Client closed request"


class SlowClientError(ServiceError):
    status = 408
    title = "Request Timeout"


class DeadlineError(ServiceError):
    status = 504
    title = "Deadline exceeded"


class UnavailableError(ServiceError):
    status = 503
    title = "Unavailable"
