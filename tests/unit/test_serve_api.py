"""The HTTP API over a real index: every address, every refusal, batches, and an index that changes meanwhile."""

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, PngImagePlugin
from search_world import QUICK, World
from starlette.testclient import TestClient
from tiny_grounding import tiny_owl

from lpi.backbones.detectors import load_grounding_backbone
from lpi.data.content import content_id
from lpi.methods import method as make_method
from lpi.search import Filters, SearchIndex
from lpi.search.teaching import adopt, learn, read_domain
from lpi.search.writer import change
from lpi.serve.app import create_app
from lpi.serve.limits import Limits
from lpi.serve.service import Service

HERE = "http://127.0.0.1:8000"
HIT = {
    *("id", "path", "copies", "score", "task", "confidence", "margin", "date", "width", "height", "thumbnail", "file"),
    "fit",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>lpi</title>")
    (folder / "app.js").write_text("export const one = 1;")
    (folder / ".secret").write_text("not served")
    (folder.parent / "outside.txt").write_text("not served")
    return folder


@pytest.fixture(scope="module")
def client(index: SearchIndex, page: Path) -> Iterator[TestClient]:
    limits = Limits(upload_bytes=20_000, pixels=10_000)
    with TestClient(create_app(Service(index, threads=1, limits=limits), page=page), base_url=HERE) as client:
        yield client


def found(answer: httpx.Response) -> list[tuple[str, float]]:
    assert answer.status_code == 200, answer.text
    return [(hit["id"], pytest.approx(hit["score"], abs=1e-5)) for hit in answer.json()["hits"]]


def pairs(hits: list[Any]) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


# ---- searching -------------------------------------------------------------------------------------------------------


def test_words_find_what_the_index_finds(client: TestClient, index: SearchIndex) -> None:
    answer = client.get("/api/search", params={"q": "a red dot", "k": 5})
    assert found(answer) == pairs(index.search_text("a red dot", 5))
    said = answer.json()
    assert set(said) == {"cut", "stage", "query", "milliseconds", "routes", "hits", "total", "fits_well"}
    assert (said["stage"], said["query"], said["milliseconds"] > 0) == (0, "a red dot", True)
    assert all(set(hit) == HIT for hit in said["hits"])
    routes = index.encode_texts(["a red dot"])[0].routes
    assert [(route["task"], route["weight"]) for route in said["routes"]] == list(routes)
    assert {task for task, _ in routes} <= {"warm", "cold"}


def test_every_parameter_counts_and_an_empty_one_does_not(client: TestClient, index: SearchIndex) -> None:
    def asked(**parameters: Any) -> list[tuple[str, float]]:
        return found(client.get("/api/search", params={"q": "a dot", "k": 30, **parameters}))

    everything = pairs(index.search_text("a dot", 30))
    assert len(everything) == 24
    empty = dict.fromkeys(("stage", "folder", "task", "since", "until", "scoring", "exact"), "")
    assert asked(**empty) == asked() == everything
    assert asked(stage=0, exact="true") == everything
    assert asked(k="") == everything
    for name, value in (("folder", "warm/red"), ("task", "warm"), ("until", "2001-01-01"), ("since", "2001-01-01")):
        assert asked(**{name: value}) == pairs(index.search_text("a dot", 30, Filters(**{name: value}))), name
    routed = asked(scoring="routed")
    assert routed == pairs(index.search_text("a dot", 30, scoring="routed"))
    assert [score for _, score in routed] != [score for _, score in everything]


@pytest.mark.parametrize("way", ["bytes", "form", "bytes of no named kind"])
def test_a_picture_finds_what_the_index_finds(way: str, client: TestClient, index: SearchIndex, world: World) -> None:
    file = world.photos / "dull" / "gray" / "bar.png"
    content = file.read_bytes()
    sent: dict[str, Any] = {
        "bytes": {"content": content, "headers": {"Content-Type": "image/png"}},
        "form": {"files": {"image": ("bar.png", content, "image/png")}},
        "bytes of no named kind": {"content": content},
    }[way]
    answer = client.post("/api/search", params={"k": 4}, **sent)
    assert found(answer) == pairs(index.search_image(file, 4))
    assert (answer.json()["query"], answer.json()["hits"][0]["path"]) == (None, "dull/gray/bar.png")
    routes = index.encode_images([file])[0].routes
    assert [(route["task"], route["weight"]) for route in answer.json()["routes"]] == list(routes)


def test_similar_pictures_are_those_of_the_index(client: TestClient, index: SearchIndex) -> None:
    key = index.search_text("a red dot", 1)[0].id
    answer = client.get(f"/api/pictures/{key}/similar", params={"k": 3, "folder": "warm"})
    assert found(answer) == pairs(index.similar(key, 3, Filters(folder="warm")))
    said = answer.json()
    assert (set(said), said["stage"], said["total"]) == ({"stage", "hits", "total"}, 0, 8)


def test_further_pages_go_on_where_the_first_ended(client: TestClient) -> None:
    whole = client.get("/api/search", params={"q": "a red dot", "k": 24}).json()
    parts = [client.get("/api/search", params={"q": "a red dot", "k": 10, "skip": skip}).json() for skip in (0, 10, 20)]
    assert [hit["id"] for part in parts for hit in part["hits"]] == [hit["id"] for hit in whole["hits"]]
    assert {part["total"] for part in parts} == {24}


def test_the_newest_pictures_come_first_and_all_once(client: TestClient, index: SearchIndex) -> None:
    hits = [hit for skip in (0, 20) for hit in client.get(f"/api/pictures?k=20&skip={skip}").json()["hits"]]
    assert len({hit["id"] for hit in hits}) == 24
    dates = [hit["date"] for hit in hits]
    assert dates == sorted(dates, reverse=True)
    answer = client.get("/api/pictures", params={"folder": "warm", "k": 3}).json()
    assert (answer["total"], len(answer["hits"])) == (8, 3)
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in index.newest(3, Filters(folder="warm"))]


def test_what_fits_less_well_is_left_out(
    client: TestClient, index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpi.search.fit.LEAST_WORDS", 0)  # the tiny model's
    assert index.measure()
    whole = client.get("/api/search", params={"q": "a red dot", "k": 24}).json()
    fits = sorted(hit["fit"] for hit in whole["hits"])
    assert whole["fits_well"] is (fits[-1] >= 0.5)
    kept = client.get("/api/search", params={"q": "a red dot", "k": 24, "least": fits[12]}).json()["hits"]
    assert 0 < len(kept) <= 12
    assert all(hit["fit"] >= fits[12] for hit in kept)
    none = client.get("/api/search", params={"q": "a red dot", "least": 1}).json()
    assert (none["hits"], none["fits_well"]) == ([], False)
    assert client.get("/api/search", params={"q": "a dot", "least": 2}).status_code == 400


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_addresses_in_a_hit_give_the_picture(client: TestClient, world: World) -> None:
    hit = client.get("/api/search", params={"q": "a red dot", "k": 1}).json()["hits"][0]
    assert client.get(f"/api/pictures/{hit['id']}").json() == {**hit, "score": 1.0, "fit": None, "taken": ""}
    file = client.get(hit["file"])
    assert file.content == (world.photos / hit["path"]).read_bytes()
    assert file.headers["Content-Type"] == "image/png"
    assert file.headers["Content-Disposition"].startswith("inline")
    small = client.get(hit["thumbnail"], params={"side": 16})
    image = Image.open(io.BytesIO(small.content))
    assert (image.format, max(image.size), small.headers["Content-Type"]) == ("JPEG", 16, "image/jpeg")
    for answer in (file, small):
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert client.get(hit["thumbnail"], params={"side": 16}).content == small.content


def test_only_pictures_of_the_index_are_served(client: TestClient, world: World) -> None:
    stranger = world.photos.parent / "captioned" / "dull" / "images" / "gray-dot-0.png"
    for key in (content_id(stranger), "0" * 32, "x", "..", "%2e%2e", "../index.json", "' OR true --"):
        for what in ("", "/file", "/thumbnail", "/similar"):
            answer = client.get(f"/api/pictures/{key}{what}")
            assert answer.status_code == 404, (key, what)
            assert "error" in answer.json()


# ---- what there is ---------------------------------------------------------------------------------------------------


def test_info_says_what_there_is(client: TestClient, index: SearchIndex) -> None:
    info = client.get("/api/info").json()
    colours = ["red", "gold", "blue", "teal", "gray", "black"]
    assert info["name"] == "photos"
    assert (info["pictures"], info["current"], info["grounding"], info["upload_bytes"]) == (24, 0, False, 20_000)
    assert sorted(Path(folder).name for folder in info["folders"]) == sorted(["", "warm", "cold", "dull", *colours])
    assert [task["name"] for task in info["tasks"]] == ["warm", "cold"]
    assert sum(task["pictures"] for task in info["tasks"]) == 24
    stage = {"number": 0, "label": "index", "when": index.stages()[0].when, "tasks": ["warm", "cold"], "pictures": 24}
    assert info["stages"] == [stage]
    assert len(info["examples"]) <= 6


def test_health_and_figures(client: TestClient) -> None:
    health = client.get("/api/health").json()
    assert len(health.pop("server")) == 16
    assert health == {"status": "ok", "pictures": 24, "stage": 0}
    client.get("/api/search", params={"q": "a dot"})
    client.get("/api/nowhere/1")
    figures = client.get("/metrics")
    assert figures.headers["Content-Type"].startswith("text/plain")
    for line in (
        'lpi_requests_total{method="GET",route="/api/search",status="200"}',
        'lpi_batch_size_bucket{le="1.0",work="encode"}',
        'lpi_request_seconds_count{route="/api/search"}',
        'lpi_queue{work="find"} 0.0',
        "lpi_pictures 24.0",
        "lpi_stage 0.0",
    ):
        assert line in figures.text, line
    assert "/api/nowhere" not in figures.text, "what a client makes up is no label"


def test_openapi_lists_what_is_asked_and_answered(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert {
        *("/api/info", "/api/search", "/api/pictures/{id}", "/api/pictures/{id}/file", "/api/pictures/{id}/thumbnail"),
        *("/api/pictures/{id}/similar", "/api/pictures/{id}/ground", "/api/health", "/metrics"),
        *("/api/pictures", "/api/teaching", "/api/teaching/files", "/api/teaching/learn", "/api/teaching/adopt"),
        "/api/domains/{name}",
    } == set(told["paths"])
    assert {"SearchAnswer", "SimilarAnswer", "Hit", "Route", "Info", "Health", "GroundAnswer", "Problem"} <= set(
        told["components"]["schemas"]
    )
    search = told["paths"]["/api/search"]
    names = {"q", "k", "stage", "folder", "task", "since", "until", "scoring", "exact", "skip", "least"}
    assert {parameter["name"] for parameter in search["get"]["parameters"]} == names
    assert {parameter["name"] for parameter in search["post"]["parameters"]} == names - {"q"}
    assert set(search["post"]["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert "413" in search["post"]["responses"]


def test_the_page_is_served_by_name_and_nothing_else_of_its_folder(client: TestClient, page: Path) -> None:
    start = client.get("/")
    assert (start.text, start.headers["Content-Type"]) == (
        "<!doctype html><title>lpi</title>",
        "text/html; charset=utf-8",
    )
    assert client.get("/app.js").headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert client.head("/app.js").status_code == 200
    assert client.get("/app.js", headers={"If-None-Match": client.get("/app.js").headers["ETag"]}).status_code == 304
    (page / "later.js").write_text("not served: it came after the start")
    for path in ("/later.js", "/.secret", "/../outside.txt", "/%2e%2e/outside.txt", "//etc/passwd", "/app.js/", "/api"):
        answer = client.get(path)
        assert (answer.status_code, set(answer.json())) == (404, {"error"}), path


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/api/search", 400, "a search needs words"),
        ("/api/search?q=+", 400, "a search needs words"),
        ("/api/search?q=" + "a" * 1001, 400, "q: string should have at most 1000 characters"),
        ("/api/search?q=a&k=0", 400, "k: input should be greater than or equal to 1; got '0'"),
        ("/api/search?q=a&k=501", 400, "k: input should be less than or equal to 500; got '501'"),
        ("/api/search?q=a&k=many", 400, "got 'many'"),
        ("/api/search?q=a&stage=3", 400, "stage must be between 0 and 0; got 3"),
        ("/api/search?q=a&stage=-1", 400, "got -1"),
        ("/api/search?q=a&task=wram", 404, "Did you mean 'warm'?"),
        ("/api/search?q=a&since=May", 400, "since must be a date like 2024-05-31; got 'May'"),
        ("/api/search?q=a&scoring=rooted", 400, "Did you mean 'routed'?"),
        ("/api/search?q=a&fodler=x", 400, "there is no parameter 'fodler'. Did you mean 'folder'?"),
        ("/api/info?x=1", 400, "there is no parameter 'x'"),
        ("/api/pictures/" + "0" * 32 + "/thumbnail?side=5000", 400, "side: input should be less than or equal to 2048"),
        ("/api/pictures/" + "0" * 32, 404, "no picture has the id '0000"),
        ("/nowhere", 404, "there is no page '/nowhere'"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_clear_line(
    address: str, status: int, words: str, client: TestClient
) -> None:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def picture(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(written, "PNG")
    return written.getvalue()


def test_pictures_that_are_too_large_or_no_pictures_are_refused(client: TestClient) -> None:
    def refused(status: int, words: str, **sent: Any) -> None:
        answer = client.post("/api/search", **sent)
        assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
        assert words in answer.json()["error"]

    refused(413, "at most 20,000 bytes", content=b"x" * 20_001)
    refused(413, "at most 20,000 bytes", content=iter([b"x" * 15_000, b"x" * 15_000]))
    refused(413, "at most 20,000 bytes", files={"image": ("a.png", b"x" * 20_001, "image/png")})
    refused(413, "at most 10,000 pixels; got 101 x 100", content=picture(101, 100))
    refused(400, "the request has no picture", content=b"")
    refused(400, "can't be read", content=b"no picture")
    refused(400, "in its field 'image'", files={"picture": ("a.png", picture(9, 9), "image/png")})
    refused(400, "in its field 'image'", data={"image": "words"}, files={"other": ("a", b"b", "text/plain")})
    refused(415, "got 'application/json'", json={"image": "?"})
    refused(400, "there is no parameter 'q'", params={"q": "words"}, content=picture(9, 9))
    assert client.post("/api/info").status_code == 405


def test_a_sent_picture_whose_decoder_fails_is_one_line_and_no_error_of_the_server(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("planes don't agree")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fails)
    answer = client.post("/api/search", content=picture(9, 9))
    assert answer.status_code == 400
    assert "the picture can't be read (RuntimeError: planes don't agree)" in answer.json()["error"]


def test_every_answer_is_guarded(client: TestClient) -> None:
    for address in ("/", "/api/health", "/nowhere", "/api/search"):
        assert client.get(address).headers["X-Content-Type-Options"] == "nosniff"
    answer = client.get("/api/info", headers={"Host": "evil.example"})
    assert (answer.status_code, "localhost only" in answer.json()["error"]) == (403, True)


# ---- many at once ----------------------------------------------------------------------------------------------------


def together(service: Service, addresses: list[str]) -> list[httpx.Response]:
    """Answers to requests that all come at the same time."""

    async def asked() -> list[httpx.Response]:
        app = create_app(service)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                return list(await asyncio.gather(*(client.get(address) for address in addresses)))

    return asyncio.run(asked())


def figure(service: Service, name: str, **labels: str) -> float:
    return service.metrics.registry.get_sample_value(name, labels) or 0.0


ADDRESSES = [
    f"/api/search?q={words}&k={k}&folder={folder}&scoring={scoring}"
    for words in ("a+red+dot", "a+very+long+query+about+a+teal+bar+and+a+box", "gold", "blue+tip")
    for k, folder in ((5, ""), (3, "warm"))
    for scoring in ("plain", "routed")
]


def test_queries_that_come_together_share_forwards_and_are_answered_as_if_alone(index: SearchIndex) -> None:
    batched, alone = Service(index, threads=1), Service(index, threads=1, batching=False)
    answers = together(batched, ADDRESSES), together(alone, ADDRESSES)
    for one, other in zip(*answers, strict=True):
        assert found(one) == [(hit["id"], hit["score"]) for hit in other.json()["hits"]]
        assert one.json()["routes"] == [
            {"task": route["task"], "weight": pytest.approx(route["weight"], abs=1e-5)}
            for route in other.json()["routes"]
        ]
    queries = len(ADDRESSES) + 1  # the one to warm up
    for service in (batched, alone):
        assert figure(service, "lpi_batch_size_sum", work="encode") == queries
    assert figure(alone, "lpi_batch_size_count", work="encode") == queries
    assert figure(batched, "lpi_batch_size_count", work="encode") == 3, "one a scoring, and the one to warm up"
    assert figure(batched, "lpi_batch_size_count", work="find") < len(ADDRESSES)


def test_one_more_than_may_wait_is_turned_away_and_may_come_again(index: SearchIndex) -> None:
    service = Service(index, threads=1, limits=Limits(waiting=2))
    answers = together(service, ADDRESSES)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert sorted({answer.status_code for answer in answers}) == [200, 503]
    assert len(answers) - len(refused) >= 2
    assert "Try again" in refused[0].json()["error"]
    assert refused[0].headers["Retry-After"] == "1"


# ---- an index that others change -------------------------------------------------------------------------------------


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    """A world to be spoiled, indexed."""
    return world.copy(tmp_path)


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again, for a minute at most."""
    ended = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ended
        time.sleep(0.02)


def test_changes_by_others_are_picked_up_while_searches_go_on(mine: World) -> None:
    index = SearchIndex.open(mine.index, device="cpu")
    service = Service(index, threads=1, refresh_seconds=0.05)
    done, statuses = threading.Event(), []

    with TestClient(create_app(service), base_url=HERE) as client:

        def search_on() -> None:
            while not done.is_set():
                statuses.append(client.get("/api/search", params={"q": "a dot"}).status_code)

        searching = threading.Thread(target=search_on)
        searching.start()
        try:
            gone = index.search_text("a red box", 1)[0]
            assert client.get(f"/api/pictures/{gone.id}/thumbnail").status_code == 200
            (mine.photos / gone.path).unlink()
            for number in (0, 1):
                mine.paint(f"new/{number}.png", "gray", "dot", number)
            mine.update()
            wait_until(lambda: client.get("/api/health").json()["pictures"] == 25)
            assert client.get(f"/api/pictures/{gone.id}/thumbnail").status_code == 404, "though it was kept"
            assert "new" in client.get("/api/info").json()["folders"]
            with change(mine.index, device="cpu") as writer:
                adopt(writer, learn(writer, read_domain(mine.captioned / "dull", "dull"), settings=QUICK))
            wait_until(lambda: client.get("/api/health").json()["stage"] == 1)
        finally:
            done.set()
            searching.join()
        info = client.get("/api/info").json()
        assert [task["name"] for task in info["tasks"]] == ["warm", "cold", "dull"]
        assert [stage["label"] for stage in info["stages"]] == ["index", "teach dull"]
        earlier = client.get("/api/search", params={"q": "a gray dot", "stage": 0}).json()
        now = client.get("/api/search", params={"q": "a gray dot"}).json()
        assert (earlier["stage"], now["stage"]) == (0, 1)
        assert "dull" not in {route["task"] for route in earlier["routes"]}
    assert len(statuses) > 2
    assert set(statuses) == {200}


def test_what_changes_before_the_server_answers_is_taken_over(mine: World) -> None:
    service = Service(SearchIndex.open(mine.index, device="cpu"), threads=1, refresh_seconds=0.02)
    mine.paint("late.png", "red", "dot", 9)
    pictures = mine.update().pictures
    with TestClient(create_app(service), base_url=HERE) as client:
        wait_until(lambda: client.get("/api/info").json()["pictures"] == pictures)


def test_an_index_that_cannot_be_read_any_more_is_served_as_it_was(
    mine: World, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(SearchIndex.open(mine.index, device="cpu"), threads=1, refresh_seconds=0.02)
    with TestClient(create_app(service), base_url=HERE) as client:
        whole = (mine.index / "index.json").read_bytes()
        (mine.index / "index.json").write_bytes(whole[:100])
        wait_until(lambda: figure(service, "lpi_refresh_failures_total") > 0)
        assert client.get("/api/search", params={"q": "a dot"}).status_code == 200
        assert "can't be read" in caplog.text
        (mine.index / "index.json").write_bytes(whole)
        wait_until(lambda: figure(service, "lpi_refreshes_total") > 0)


def test_a_file_that_was_exchanged_is_not_served(mine: World) -> None:
    index = SearchIndex.open(mine.index, device="cpu")
    hit = index.search_text("a red box", 1)[0]
    (mine.photos / hit.path).write_bytes(b"something private")
    with TestClient(create_app(Service(index, threads=1)), base_url=HERE) as client:
        for what in ("file", "thumbnail"):
            answer = client.get(f"/api/pictures/{hit.id}/{what}")
            assert answer.status_code == 404
            assert "changed. Index again" in answer.json()["error"]
            assert str(mine.root) not in answer.json()["error"], "where the folder lies is nobody's business"


# ---- boxes -----------------------------------------------------------------------------------------------------------


def test_boxes_are_in_pixels_of_the_picture(index: SearchIndex, tmp_path: Path) -> None:
    grounder = make_method("zero_shot", load_grounding_backbone(tiny_owl(tmp_path / "owl")))
    key = index.search_text("a red box", 1)[0].id
    with TestClient(create_app(Service(index, grounder=grounder, threads=1)), base_url=HERE) as client:
        assert client.get("/api/info").json()["grounding"] is True
        assert client.get("/api/info").json()["grounding_drawn_only"] is False
        ask = {"expression": "the red box", "least": 0}
        said = client.get(f"/api/pictures/{key}/ground", params=ask).json()
        assert (said["task"], said["width"], said["height"]) == ("", 32, 32)
        expected = grounder.locate(Image.open(index.path(key)).convert("RGB"), ["the red box"], count=5)[0]
        assert [box["box"] for box in said["boxes"]] == [pytest.approx(list(one.box), abs=1e-3) for one in expected]
        assert len(said["boxes"]) >= 1
        scores = [box["score"] for box in said["boxes"]]
        assert said["best"] == scores[0] == max(scores)
        fewer = client.get(f"/api/pictures/{key}/ground", params={**ask, "least": scores[1] + 1e-6}).json()
        assert [box["score"] for box in fewer["boxes"]] == [score for score in scores if score > scores[1]]
        none = client.get(f"/api/pictures/{key}/ground", params={**ask, "least": 1}).json()
        assert (none["boxes"], none["best"]) == ([], scores[0])
        answer = client.get(f"/api/pictures/{key}/ground")
        assert (answer.status_code, "needs words" in answer.json()["error"]) == (400, True)


def test_without_a_model_for_boxes_the_answer_says_how_to_give_one(client: TestClient, index: SearchIndex) -> None:
    key = index.search_text("a red box", 1)[0].id
    answer = client.get(f"/api/pictures/{key}/ground", params={"expression": "a box"})
    assert (answer.status_code, "lpi serve --ground MODEL" in answer.json()["error"]) == (501, True)


def test_json_is_what_the_page_reads(client: TestClient) -> None:
    answer = client.get("/api/search", params={"q": "a dot", "k": 1})
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.content)["hits"][0]["copies"] == []


@pytest.mark.parametrize(
    ("asked", "status"), [("zzz", 400), ("bytes=-", 400), ("bytes=9-2", 416), ("bytes=99999999-", 416)]
)
def test_a_bad_range_is_one_line_of_json(client: TestClient, index: SearchIndex, asked: str, status: int) -> None:
    hit = index.search("a red dot", count=1)[0]
    answer = client.get(f"/api/pictures/{hit.id}/file", headers={"Range": asked})
    assert answer.status_code == status
    assert "range" in answer.json()["error"]


@pytest.mark.parametrize("asked", ["bytes=0-9", "bytes=5-", "bytes=-5", "bytes=0-1, 4-5"])
def test_a_good_range_is_a_part_of_the_file(client: TestClient, index: SearchIndex, asked: str) -> None:
    hit = index.search("a red dot", count=1)[0]
    assert client.get(f"/api/pictures/{hit.id}/file", headers={"Range": asked}).status_code == 206


def test_tables_that_are_gone_are_503_and_the_server_says_that_it_is_not_well(world: World, tmp_path: Path) -> None:
    world.build_once()
    mine = world.copy(tmp_path)
    with TestClient(
        create_app(Service(SearchIndex.open(mine.index, device="cpu"))), base_url="http://localhost"
    ) as client:
        assert client.get("/api/health").status_code == 200
        (mine.index / "store").rename(tmp_path / "away")
        for address in ("/api/search?q=red", "/api/health"):
            answer = client.get(address)
            assert answer.status_code == 503
            assert answer.json() == {
                "error": "the index can't be read just now; the server's log says why. Try again later."
            }
        (tmp_path / "away").rename(mine.index / "store")
        assert client.get("/api/health").status_code == 200
        assert client.get("/api/search?q=red").status_code == 200
