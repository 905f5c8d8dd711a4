"""The parts put together: the API, the page, the guards before them, and what is said when something goes wrong."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lpi import __version__
from lpi.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LpiError,
    MissingFileError,
    UnknownNameError,
    did_you_mean,
)
from lpi.serve.limits import BodyLimit, RefusedError, said
from lpi.serve.metrics import Measured
from lpi.serve.routes import api
from lpi.serve.security import Guard
from lpi.serve.service import Service

AGAIN = {"Retry-After": "1"}
PAGE = Path(__file__).parent / "page"
KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".webmanifest": "application/manifest+json"}
STATUS: dict[type[LpiError], int] = {UnknownNameError: 404, MissingFileError: 404, ConfigError: 400, DataError: 400}


def create_app(service: Service, *, token: str | None = None, local: bool = True, page: Path = PAGE) -> FastAPI:
    """The application that serves the API and the page, with its guards.

    Args:
        service: what answers.
        token: who has it may ask; ``None`` lets everybody.
        local: it listens on loopback.
        page: the folder of the page's files; it is read now, and no other file of it is ever served.
    """

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="lpi",
        version=__version__,
        summary="Search in a folder of pictures.",
        lifespan=running,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(api(service))
    add_page(app, page)
    add_problems(app, service)
    app.add_middleware(BodyLimit, most=service.limits.upload_bytes)
    app.add_middleware(Guard, token=token, local=local)
    app.add_middleware(Measured, metrics=service.metrics)
    return app


def add_page(app: FastAPI, folder: Path) -> None:
    """Serve the files of a folder by name, and its ``index.html`` as ``/``."""
    files: dict[str, tuple[bytes, dict[str, str]]] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            content = file.read_bytes()
            kind = KINDS.get(file.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
            kind += "; charset=utf-8" if kind.startswith("text/") else ""
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files[name] = content, {"Content-Type": kind, "ETag": tag, "Cache-Control": "no-cache"}

    @app.api_route("/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request, name: str) -> Response:
        found = files.get(name or "index.html")
        if found is None:
            raise HTTPException(404, f"there is no page {request.url.path[:80]!r}. Begin at /.")
        content, headers = found
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)


def add_problems(app: FastAPI, service: Service) -> None:
    """Answer whatever goes wrong with one line of JSON."""

    def told(status: int, message: str, headers: Any = None) -> JSONResponse:
        line = " ".join(
            message.replace(f"{service.index.root}/", "").split()
        )  # where the folder lies is nobody's business
        return JSONResponse({"error": line}, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return told(error.status, str(error), AGAIN if error.status == 503 else None)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody hears it

    @app.exception_handler(CheckpointError)
    async def unreadable(request: Request, error: CheckpointError) -> Response:
        service.note_damage(error)
        return told(503, "the index can't be read just now; the server's log says why. Try again later.", AGAIN)

    @app.exception_handler(LpiError)
    async def mistaken(request: Request, error: LpiError) -> Response:
        return told(next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500), str(error))

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        names = parameters(request)
        unknown = {str(own["loc"][-1]) for own in error.errors() if own["type"] == "extra_forbidden"}
        hints = {name: did_you_mean(name, names) if names else "None is taken here." for name in unknown}
        return told(400, said(list(error.errors()), hints))

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        return told(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return told(500, "something went wrong in the server; its log says what.")


def parameters(request: Request) -> list[str]:
    """The names of what the route of a request takes from its address: fields of one model."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    models = [] if dependant is None else [own.field_info.annotation for own in dependant.query_params]
    return [name for model in models for name in getattr(model, "model_fields", {})]
