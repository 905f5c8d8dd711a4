"""Every address of the API: what it takes, and what it gives."""

from __future__ import annotations

import asyncio
import mimetypes
import re
import time
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from lpi import __version__
from lpi.errors import ConfigError, UnknownNameError, did_you_mean
from lpi.search.fit import WELL
from lpi.search.hits import Hit as Found
from lpi.search.hits import Query as Encoded
from lpi.serve.limits import MOST_HITS, RefusedError
from lpi.serve.schemas import (
    Asked,
    Box,
    Domain,
    Expression,
    GroundAnswer,
    Health,
    Hit,
    Info,
    Newest,
    Picture,
    Piece,
    Problem,
    Route,
    Search,
    SearchAnswer,
    Similar,
    SimilarAnswer,
    Size,
    StageInfo,
    TaskInfo,
    Teaching,
    Way,
    WordSearch,
)
from lpi.serve.service import Encoding, Lookup, Service, check_id
from lpi.serve.teaching import Teacher

Result = TypeVar("Result")

UPLOAD_SECONDS = 60.0
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # an id is the hash of the content
Responses = dict[int | str, dict[str, Any]]  # as FastAPI takes them

PROBLEMS: Responses = {
    400: {"model": Problem, "description": "Something about the request makes no sense."},
    401: {"model": Problem, "description": "A token is needed."},
    403: {"model": Problem, "description": "Asked under another name than localhost."},
    404: {"model": Problem, "description": "There is no such picture, task or page."},
    503: {"model": Problem, "description": "Too many wait already, or the index can't be read just now."},
}
TOO_LARGE: Responses = {413: {"model": Problem, "description": "The picture is too large."}}
BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "description": "A picture: its bytes, or a form with the field 'image'.",
        "content": {
            "image/*": BINARY,
            "multipart/form-data": {"schema": {"type": "object", "properties": {"image": BINARY["schema"]}}},
        },
    }
}
Id = Annotated[str, Path(alias="id", description="The picture's id, from a search.")]


def api(service: Service) -> APIRouter:
    """The routes of a service."""
    router = APIRouter(responses=PROBLEMS)
    add_searches(router, service)
    add_pictures(router, service)
    add_figures(router, service)
    if service.teacher is not None:
        add_teaching(router, service, service.teacher)
    return router


# ---- searching -------------------------------------------------------------------------------------------------------


def add_searches(router: APIRouter, service: Service) -> None:
    """Add searches by words, by a picture that is sent, and by one of the index."""

    @router.get("/api/search", summary="Search by words")
    async def by_words(request: Request, asked: Annotated[WordSearch, Query()]) -> SearchAnswer:
        started = time.perf_counter()
        encoding = Encoding("text", service.stage(asked.stage), asked.scoring)
        found = await unless_gone(request, service.search_words(asked.q, encoding, lookup(asked)))
        return answer(*found, asked, await service.count(encoding.stage, asked.filters()), started)

    @router.post("/api/search", summary="Search by a picture", openapi_extra=PICTURE_BODY, responses=TOO_LARGE)
    async def by_picture(request: Request, asked: Annotated[Search, Query()]) -> SearchAnswer:
        started = time.perf_counter()
        encoding = Encoding("image", service.stage(asked.stage), asked.scoring)
        wanted = lookup(asked)
        try:
            content = await asyncio.wait_for(sent_picture(request), UPLOAD_SECONDS)
        except asyncio.TimeoutError as error:
            raise RefusedError(408, "the picture took too long to arrive. Send it again.") from error
        found = await unless_gone(request, service.search_picture(content, encoding, wanted))
        return answer(*found, asked, await service.count(encoding.stage, wanted.filters), started)

    @router.get("/api/pictures/{id}/similar", summary="Pictures like one of them")
    async def similar(request: Request, key: Id, asked: Annotated[Similar, Query()]) -> SimilarAnswer:
        stage = service.stage(asked.stage)
        hits = await unless_gone(request, service.similar(key, stage, lookup(asked)))
        return await pictures(service, hits[asked.skip :], stage, asked)

    @router.get("/api/pictures", summary="The newest pictures")
    async def newest(request: Request, asked: Annotated[Newest, Query()]) -> SimilarAnswer:
        stage = service.stage(asked.stage)
        wanted = Lookup(asked.k, asked.filters(), exact=False)
        hits = await unless_gone(request, service.newest(stage, wanted, asked.skip))
        return await pictures(service, hits, stage, asked)


def lookup(asked: Similar) -> Lookup:
    """What a request wants of the store: also what it skips must be found."""
    exact, least = (asked.exact, asked.least) if isinstance(asked, Search) else (False, None)
    return Lookup(min(asked.skip + asked.k, MOST_HITS), asked.filters(), exact, least)


async def pictures(service: Service, hits: list[Found], stage: int | None, asked: Newest) -> SimilarAnswer:
    """The answer where nothing was encoded."""
    number = service.index.manifest.current.number if stage is None else stage
    total = await service.count(stage, asked.filters())
    return SimilarAnswer(stage=number, total=total, hits=[Hit.of(hit) for hit in hits])


def answer(query: Encoded, hits: list[Found], asked: Search, total: int, started: float) -> SearchAnswer:
    """The answer to a search: the hits, the tasks that answered, and the time it took."""
    fits = [hit.fit for hit in hits if hit.fit is not None]
    return SearchAnswer(
        stage=query.stage,
        total=total,
        fits_well=max(fits) >= WELL if fits else (None if hits or asked.least is None else False),
        query=asked.q if isinstance(asked, WordSearch) else None,
        cut=query.cut,
        milliseconds=round(1000 * (time.perf_counter() - started), 1),
        routes=[Route(task=task, weight=weight) for task, weight in query.routes],
        hits=[Hit.of(hit) for hit in hits[asked.skip :]],
    )


async def sent_picture(request: Request) -> bytes:
    """The bytes of the picture in a request, whichever way it was sent."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=8) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise ConfigError("the form must have a file in its field 'image'.")
            return await image.read()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise RefusedError(415, f"a picture is wanted: image/* or multipart/form-data; got {kind[:80]!r}.")
    return await request.body()


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of some work, which is given up as soon as the client has gone away.

    Raises:
        RefusedError: it has; nobody will hear this.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        watching.result()
        raise RefusedError(499, "the client has gone away.")
    finally:
        working.cancel()
        watching.cancel()


# ---- pictures --------------------------------------------------------------------------------------------------------


def add_pictures(router: APIRouter, service: Service) -> None:
    """Add what is told of pictures of the index, by their ids: no name of a file is ever taken from a request."""

    @router.get("/api/pictures/{id}", summary="What is known of a picture")
    async def picture(key: Id, asked: Annotated[Asked, Query()]) -> Picture:
        hit, taken = await service.picture(key)
        return Picture(**Hit.of(hit).model_dump(), taken=taken)

    @router.get(
        "/api/pictures/{id}/file",
        summary="The picture as it is",
        response_class=FileResponse,
        responses={200: {"content": {"image/*": BINARY}}},
    )
    async def file(request: Request, key: Id, asked: Annotated[Asked, Query()]) -> FileResponse:
        path = await service.file(key)
        check_range(request.headers.get("range"), path.stat().st_size)
        kind = mimetypes.guess_type(path.name)[0] or ""
        return FileResponse(
            path,
            media_type=kind if kind.startswith("image/") else "application/octet-stream",
            filename=path.name,
            content_disposition_type="inline",
            headers=FOR_EVER,
        )

    @router.get(
        "/api/pictures/{id}/thumbnail",
        summary="The picture in small",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": BINARY}}},
    )
    async def thumbnail(request: Request, key: Id, asked: Annotated[Size, Query()]) -> Response:
        content = await unless_gone(request, service.thumbnail(key, asked.side))
        return Response(content, media_type="image/jpeg", headers=FOR_EVER)

    @router.get(
        "/api/pictures/{id}/ground",
        summary="Where in the picture something is",
        responses={501: {"model": Problem, "description": "No model that finds boxes was given."}},
    )
    async def ground(request: Request, key: Id, asked: Annotated[Expression, Query()]) -> GroundAnswer:
        found, (width, height) = await unless_gone(request, service.ground(key, asked.expression))
        return GroundAnswer(
            task=(found[0].task if found else None) or "",
            best=max((one.score for one in found), default=0.0),
            boxes=[Box(box=one.box, score=one.score) for one in found if one.score >= asked.least],
            width=width,
            height=height,
        )


def check_range(asked: str | None, size: int) -> None:
    """Refuse a part of a file that can't be told or isn't there; what comes after this says so in another form.

    Raises:
        HTTPException: 400 or 416.
    """
    if asked is None:
        return
    found = re.fullmatch(r"bytes=((?:\d{1,18}-\d{0,18}|-\d{1,18})(?:, ?(?:\d{1,18}-\d{0,18}|-\d{1,18})){0,7})", asked)
    if found is None:
        raise HTTPException(400, f"range must be like bytes=0-499; got {asked[:80]!r}.")
    starts = [part.partition("-") for part in found[1].replace(" ", "").split(",")]
    wrong = any(first and last and int(first) > int(last) for first, _, last in starts)
    if wrong or not any(int(first) < size if first else int(last) > 0 for first, _, last in starts):
        message = f"the picture has {size} bytes; the range {asked[:80]!r} is none of them."
        raise HTTPException(416, message, {"Content-Range": f"bytes */{size}"})


# ---- what there is ---------------------------------------------------------------------------------------------------


def add_figures(router: APIRouter, service: Service) -> None:
    """Add figures for the page, for who watches over the server, and for Prometheus."""

    @router.get("/api/info", summary="What there is to search in")
    async def info(asked: Annotated[Asked, Query()]) -> Info:
        overview = await service.overview()
        manifest = overview.manifest
        return Info(
            name=service.index.root.name,
            pictures=manifest.current.pictures,
            tasks=[TaskInfo(name=task.name, pictures=overview.tasks[task.name]) for task in manifest.current.tasks],
            folders=overview.folders,
            stages=[
                StageInfo(
                    number=stage.number,
                    label=f"{stage.kind} {stage.task}".strip(),
                    when=stage.when,
                    tasks=[task.name for task in stage.tasks],
                    pictures=stage.pictures,
                )
                for stage in manifest.stages
            ],
            current=manifest.current.number,
            examples=service.examples,
            grounding=service.grounder is not None,
            grounding_drawn_only=service.grounder is not None and service.grounder.backbone.drawn_only,
            version=__version__,
            upload_bytes=service.limits.upload_bytes,
            teaching=service.teacher is not None,
        )

    @router.get("/api/health", summary="Whether searches are answered")
    async def health() -> Health:
        await service.well()
        stage = service.index.manifest.current.number
        return Health(status="ok", pictures=len(service.index), stage=stage, server=service.name)

    @router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


# ---- teaching --------------------------------------------------------------------------------------------------------

BUSY: Responses = {409: {"model": Problem, "description": "Another domain is being taught, or none."}}
FILE_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": BINARY}}}


def add_teaching(router: APIRouter, service: Service, teacher: Teacher) -> None:
    """Add what changes the index: a domain is begun, sent, learned on trial, adopted or let go; or forgotten."""

    @router.get("/api/teaching", summary="What is being taught or forgotten, and how far it is")
    async def state(asked: Annotated[Asked, Query()]) -> Teaching:
        return Teaching.of(teacher.job)

    @router.post("/api/teaching", summary="Begin to teach a domain", responses=BUSY)
    async def begin(asked: Domain) -> Teaching:
        captions = {one.id: one.caption for one in asked.captions}
        for key in captions:
            check_id(key)
        return Teaching.of(await service.apart(lambda: teacher.begin(asked.domain, captions)))

    @router.put(
        "/api/teaching/files",
        summary="Send a file to be learned from, or a piece of one",
        responses={**BUSY, **TOO_LARGE},
        openapi_extra=FILE_BODY,
    )
    async def send(request: Request, asked: Annotated[Piece, Query()]) -> Teaching:
        teacher.current("sending")  # before its bytes are taken
        content = await request.body()
        return Teaching.of(await service.apart(lambda: teacher.send(asked.name, content, asked.at)))

    @router.post("/api/teaching/learn", summary="Learn on trial, and measure", responses=BUSY)
    async def learn(asked: Way) -> Teaching:
        return Teaching.of(teacher.learn(deeper=asked.deeper))

    @router.post("/api/teaching/adopt", summary="Search with it from now on", responses=BUSY)
    async def adopt(asked: Annotated[Asked, Query()]) -> Teaching:
        return Teaching.of(teacher.adopt())

    @router.delete("/api/teaching", summary="Let it go")
    async def drop(asked: Annotated[Asked, Query()]) -> Teaching:
        await service.apart(teacher.drop)
        return Teaching.of(teacher.job)

    @router.delete("/api/domains/{name:path}", summary="Forget a domain", responses=BUSY)
    async def forget(name: str, asked: Annotated[Asked, Query()]) -> Teaching:
        if name not in service.index.tasks:
            raise UnknownNameError(f"no domain is called {name[:80]!r}. {did_you_mean(name, service.index.tasks)}")
        return Teaching.of(teacher.begin(name, {}, forgets=True))
