"""What is asked and answered over HTTP, as types; ``/openapi.json`` is made of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpi.search.filters import Filters
from lpi.serve.limits import LONGEST_QUERY, MOST_HITS

if TYPE_CHECKING:
    from lpi.search.hits import Hit as Found

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
    """Boxes, the best first; the task whose knowledge was used, empty for the frozen detector."""

    task: str
    boxes: list[Box]
    width: int
    height: int


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
    version: str
    upload_bytes: int


class Health(BaseModel):
    """Whether searches are answered."""

    status: Literal["ok"]
    pictures: int
    stage: int
