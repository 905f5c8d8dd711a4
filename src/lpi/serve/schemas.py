"""What is asked and answered over HTTP, as types; ``/openapi.json`` is made of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpi.config import LEAST_SCORE
from lpi.search.filters import Filters
from lpi.search.report import Change, by_domain
from lpi.serve.limits import LONGEST_QUERY, MOST_HITS

if TYPE_CHECKING:
    from lpi.search.hits import Hit as Found
    from lpi.serve.teaching import Job

Day = Annotated[str, Field(json_schema_extra={"format": "date"})]

# ---- asked -----------------------------------------------------------------------------------------------------------


class Asked(BaseModel):
    """Parameters of a request. An empty one is as if it weren't there; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value != ""} if isinstance(values, dict) else values


class Newest(Asked):
    """Which pictures may be shown, and how many."""

    k: Annotated[int, Field(ge=1, le=MOST_HITS, description="How many pictures.")] = 24
    skip: Annotated[int, Field(ge=0, lt=MOST_HITS, description="Leave out so many of the first.")] = 0
    stage: Annotated[int | None, Field(description="As of this stage; by default the current one.")] = None
    folder: Annotated[str | None, Field(description="Only in this folder, relative to the indexed one.")] = None
    task: Annotated[str | None, Field(description="Only pictures of this domain.")] = None
    since: Annotated[Day | None, Field(description="Only taken on this day or later, YYYY-MM-DD.")] = None
    until: Annotated[Day | None, Field(description="Only taken on this day or earlier.")] = None

    def filters(self) -> Filters:
        """The conditions on pictures, as the index takes them."""
        return Filters(folder=self.folder, task=self.task, since=self.since, until=self.until)


class Similar(Newest):
    """Which pictures may be found by a search, and how many."""


class Search(Similar):
    """How a search compares, besides."""

    least: Annotated[
        float | None, Field(ge=0, le=1, description="Leave out what fits less well; nonsense ends at a half.")
    ] = None
    scoring: Annotated[str, Field(description="How vectors of different prompts are compared.")] = "plain"
    exact: Annotated[bool, Field(description="Look at every vector, also in a large index.")] = False


class WordSearch(Search):
    """A search by words."""

    q: Annotated[str, Field(max_length=LONGEST_QUERY, description="The words.")] = ""


class Size(Asked):
    """The size of a thumbnail."""

    side: Annotated[int, Field(ge=16, le=2048, description="The longer side at most, in pixels.")] = 256


class Expression(Asked):
    """What to look for in one picture."""

    expression: Annotated[str, Field(max_length=LONGEST_QUERY, description="The words.")] = ""
    least: Annotated[float, Field(ge=0, le=1, description="What a box must score.")] = LEAST_SCORE


class Piece(Asked):
    """A file to be learned from, or a piece of one."""

    name: Annotated[
        str, Field(description="Relative to the folder that is sent: images/001.jpg, captions.jsonl, a zip.")
    ]
    at: Annotated[int, Field(ge=0, description="How many of its bytes came before.")] = 0


class Captioned(Asked):
    """A picture of the index, and what it shows."""

    id: str
    caption: Annotated[str, Field(max_length=LONGEST_QUERY)]


class Domain(Asked):
    """A domain to be taught: from pictures of the index, or from files that are sent next."""

    domain: Annotated[str, Field(max_length=80, description="What to call it.")]
    captions: Annotated[list[Captioned], Field(max_length=MOST_HITS)] = []


class Way(Asked):
    """How a domain is learned."""

    deeper: Annotated[bool, Field(description="Beside the closed form (seconds), a change of the model (minutes).")] = (
        False
    )


# ---- answered --------------------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """A request that failed: what went wrong, where, and what to do."""

    error: str


class Hit(BaseModel):
    """A picture; see :class:`lpi.search.hits.Hit`."""

    id: str
    path: str
    copies: list[str]
    score: float
    task: str
    confidence: float | None
    margin: float | None
    date: str
    width: int
    height: int
    fit: float | None
    thumbnail: str
    file: str

    @classmethod
    def of(cls, found: Found) -> Hit:
        """The answer's form of a picture that was found."""
        place = f"/api/pictures/{found.id}"
        told = {**vars(found), "copies": list(found.copies), "thumbnail": f"{place}/thumbnail", "file": f"{place}/file"}
        return cls.model_construct(**told)  # our own values: hundreds a second, and right already


class Picture(Hit):
    """A picture, and when its camera says it was taken; empty where it doesn't, and its date is the file's."""

    taken: str


class Route(BaseModel):
    """A task that answered a query, and how much it counted, 0..1; an empty name is the frozen model."""

    task: str
    weight: float


class SimilarAnswer(BaseModel):
    """Pictures, the best first, of ``total`` that pass the filters."""

    stage: int
    total: int
    hits: list[Hit]


class SearchAnswer(BaseModel):
    """Pictures, the best first, of ``total`` that pass the filters, and which tasks answered.

    ``query`` is null for a picture. ``fits_well`` says whether any picture does; null where that isn't known. ``cut``
    says that the model takes only the start of the query: the rest counts for nothing.
    """

    stage: int
    total: int
    fits_well: bool | None
    query: str | None
    cut: bool
    milliseconds: float
    routes: list[Route]
    hits: list[Hit]


class Box(BaseModel):
    """Left, top, right, bottom in pixels of the picture, and how good it is, 0..1."""

    box: tuple[float, float, float, float]
    score: float


class GroundAnswer(BaseModel):
    """Boxes that score enough, the best first; the best score of all, and whose knowledge was used, if any task's."""

    task: str
    best: float
    boxes: list[Box]
    width: int
    height: int


class Gain(BaseModel):
    """How many of a domain's test captions find their picture first, or among ten, of all: shares, before and after."""

    domain: str
    captions: int
    before: float | None
    after: float | None
    before_ten: float | None
    after_ten: float | None


class Teaching(BaseModel):
    """The domain that is being taught or forgotten; ``state`` is ``none`` where none is.

    ``files`` and ``bytes`` came so far; ``passed`` files were neither pictures nor captions. ``what`` is going on,
    ``done`` of ``total``, ``seconds_left`` where that can be said. Once it is ``ready``: what is gained and lost, by
    the captions of how many test pictures of its own, ``among`` how many pictures; how many are left to embed; whether
    more can be learned ``deeper``, and whether that was tried and found less. ``stage`` is what it led to.
    """

    state: Literal["none", "sending", "working", "stopping", "ready", "done", "failed"] = "none"
    domain: str = ""
    forgets: bool = False
    files: int = 0
    bytes: int = 0
    passed: int = 0
    what: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    gains: list[Gain] = []
    losses: list[str] = []
    tests: int = 0
    among: int = 0
    embed: int = 0
    embed_seconds: float | None = None
    deeper: bool = False
    found_less: bool = False
    problem: str = ""
    stage: int | None = None

    @classmethod
    def of(cls, job: Job | None) -> Teaching:
        """The answer's form of a job."""
        if job is None:
            return cls()
        told = cls(
            state=job.state,
            domain=job.domain,
            forgets=job.forgets,
            files=job.sent.files or len(job.captions),
            bytes=job.sent.size,
            passed=job.sent.passed,
            what=job.what,
            done=job.done,
            total=job.total,
            seconds_left=job.seconds_left,
            problem=job.problem,
            stage=job.stage,
        )
        if job.lesson is not None:
            report = job.lesson.report
            told.gains = [gain(name, own) for name, own in by_domain(job.domain, report).items()]
            told.losses, told.tests, told.among = job.lesson.losses, len(job.lesson.test.records), report["among"]
            told.embed, told.embed_seconds = report["reembed"] - report["embedded"], report["seconds"]["embed"]
            told.deeper, told.found_less = not job.deeper, job.found_less
        return told


def gain(domain: str, change: Change) -> Gain:
    """The answer's form of what changes for a domain."""
    before, after = change["before"], change["after"]
    return Gain(
        domain=domain,
        captions=next((recall["captions"] for recall in (before, after) if recall), 0),
        before=before and before["r1"],
        after=after and after["r1"],
        before_ten=before and before["r10"],
        after_ten=after and after["r10"],
    )


class TaskInfo(BaseModel):
    """A domain, and how many pictures were sent to it."""

    name: str
    pictures: int


class StageInfo(BaseModel):
    """The index between two changes of its model."""

    number: int
    label: str
    when: str
    tasks: list[str]
    pictures: int


class Info(BaseModel):
    """What there is to search in."""

    name: str
    pictures: int
    tasks: list[TaskInfo]
    folders: list[str]
    stages: list[StageInfo]
    current: int
    examples: list[str]
    grounding: bool
    grounding_drawn_only: bool
    version: str
    upload_bytes: int
    teaching: bool


class Health(BaseModel):
    """Whether searches are answered; ``server`` is what this process calls itself in the index that it serves."""

    status: Literal["ok"]
    pictures: int
    stage: int
    server: str
