"""The server's parts by themselves: batches, limits, the guard at the door, kept thumbnails, listening."""

import asyncio
import importlib
import io
import re
import socket
import sys
import threading
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from lpi.errors import ConfigError, DataError, MissingExtraError
from lpi.serve.app import PAGE
from lpi.serve.batching import Batcher
from lpi.serve.limits import BodyLimit, RefusedError, read_picture
from lpi.serve.listening import listen, page_address
from lpi.serve.routes import unless_gone
from lpi.serve.security import Guard, host_name, is_loopback, token_for
from lpi.serve.service import Thumbnails


class Doubling:
    """Work that remembers its batches, and waits until it is told to go on."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.go_on, self.begun = threading.Event(), threading.Event()
        if not held:
            self.go_on.set()

    def __call__(self, key: str, items: Sequence[int]) -> list[int]:
        self.batches.append((key, list(items)))
        self.begun.set()
        assert self.go_on.wait(10)
        if 13 in items:
            raise ConfigError("13 can't be doubled.")
        return [2 * item for item in items]


def run(work: Doubling, ask: Callable[[Batcher[str, int, int]], Awaitable[Any]], **options: Any) -> Any:
    """What a coroutine over a batcher gives."""

    async def going() -> Any:
        batcher = Batcher("double", work, **options)
        try:
            return await ask(batcher)
        finally:
            work.go_on.set()
            batcher.close()

    return asyncio.run(going())


async def begun(work: Doubling) -> None:
    await asyncio.to_thread(work.begun.wait, 10)


def test_what_is_asked_at_once_is_one_batch_for_each_key() -> None:
    work = Doubling()
    answers = run(work, lambda b: asyncio.gather(*(b.ask("even" if i % 2 == 0 else "odd", i) for i in range(6))))
    assert answers == [0, 2, 4, 6, 8, 10]
    assert work.batches == [("even", [0, 2, 4]), ("odd", [1, 3, 5])]


def test_a_batch_has_its_most_and_the_rest_comes_next() -> None:
    work = Doubling()
    assert run(work, lambda b: asyncio.gather(*(b.ask("k", i) for i in range(5))), most=2) == [0, 2, 4, 6, 8]
    assert [items for _, items in work.batches] == [[0, 1], [2, 3], [4]]


def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    work = Doubling(held=True)

    async def ask(batcher: Batcher[str, int, int]) -> list[int]:
        first = asyncio.ensure_future(batcher.ask("k", 1))
        await begun(work)
        others = [asyncio.ensure_future(batcher.ask("k", i)) for i in (2, 3)]
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        work.go_on.set()
        return list(await asyncio.gather(first, *others))

    assert run(work, ask) == [2, 4, 6]
    assert [items for _, items in work.batches] == [[1], [2, 3]]


def test_what_is_wrong_with_one_spoils_no_other() -> None:
    work = Doubling()
    found = run(work, lambda b: asyncio.gather(*(b.ask("k", i) for i in (1, 13, 3)), return_exceptions=True))
    assert (found[0], found[2]) == (2, 6)
    assert str(found[1]) == "13 can't be doubled."


def test_one_more_than_may_wait_is_refused_and_who_gave_up_makes_room() -> None:
    work = Doubling(held=True)

    async def ask(batcher: Batcher[str, int, int]) -> list[int]:
        running = asyncio.ensure_future(batcher.ask("k", 1))
        await begun(work)
        waiting = [asyncio.ensure_future(batcher.ask("k", i)) for i in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="2 requests wait already") as refused:
            await batcher.ask("k", 4)
        assert refused.value.status == 503
        waiting[0].cancel()
        await asyncio.sleep(0)
        last = asyncio.ensure_future(batcher.ask("k", 5))
        await asyncio.sleep(0)
        work.go_on.set()
        return list(await asyncio.gather(running, waiting[1], last))

    assert run(work, ask, waiting=2) == [2, 6, 10]
    assert [items for _, items in work.batches] == [[1], [3, 5]], "2 was given up, and never worked on"


def test_several_workers_work_at_once() -> None:
    meeting = threading.Barrier(2)

    def meet(key: str, items: Sequence[int]) -> list[int]:
        meeting.wait(10)  # passes only if two are here at the same time
        return list(items)

    async def ask() -> list[int]:
        batcher = Batcher("meet", meet, most=1, workers=2)
        try:
            return list(await asyncio.gather(batcher.ask("k", 1), batcher.ask("k", 2)))
        finally:
            batcher.close()

    assert asyncio.run(ask()) == [1, 2]


def test_work_is_given_up_when_its_client_goes_away() -> None:
    async def going() -> bool:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        working = asyncio.get_running_loop().create_future()
        asked = asyncio.ensure_future(unless_gone(Request({"type": "http"}, receive), working))
        await asyncio.sleep(0)
        gone.set()
        with pytest.raises(RefusedError, match="gone away"):
            await asked
        return working.cancelled()

    assert asyncio.run(going())


# ---- limits ----------------------------------------------------------------------------------------------------------


def png(width: int, height: int, **options: Any) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(written, "PNG", **options)
    return written.getvalue()


def test_a_sent_picture_is_read_upright_and_in_colour() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    assert read_picture(png(30, 20, exif=exif), pixels=1000).size == (20, 30)
    grey = io.BytesIO()
    Image.new("L", (5, 5)).save(grey, "GIF")
    assert read_picture(grey.getvalue(), pixels=1000).mode == "RGB"


def test_a_picture_with_more_pixels_than_may_be_is_refused_before_it_is_decoded() -> None:
    claims = bytearray(png(10, 10))
    claims[16:24] = 2 * (40_000).to_bytes(4, "big")  # what the header says is not there
    claims[29:33] = zlib.crc32(claims[12:29]).to_bytes(4, "big")
    for content in (png(50, 21), bytes(claims)):
        with pytest.raises(RefusedError, match="at most 1,000 pixels") as refused:
            read_picture(content, pixels=1000)
        assert refused.value.status == 413


@pytest.mark.parametrize(
    "content", [b"", b"words", png(9, 9)[:40], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"]
)
def test_what_is_no_picture_that_browsers_show_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"no picture|can't be read"):
        read_picture(content, pixels=10**6)


def test_a_line_of_pixels_is_refused_and_a_long_picture_is_not() -> None:
    assert read_picture(png(2, 20_000), pixels=10**6).size == (2, 20_000)
    for size in ((1, 10_001), (10_001, 1)):
        with pytest.raises(RefusedError, match="at most 10,000 times its width; got ") as refused:
            read_picture(png(*size), pixels=10**6)
        assert refused.value.status == 413


@pytest.mark.parametrize("place", ["__init__", "load"])
@pytest.mark.parametrize(
    "error", [AttributeError("x"), RuntimeError("x"), KeyError("x"), MemoryError(), OverflowError("x")]
)
def test_whatever_a_decoder_raises_a_sent_picture_is_refused(
    place: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, place, fails)
    with pytest.raises(DataError, match="the picture can't be read"):
        read_picture(png(9, 9), pixels=10**6)


@pytest.mark.parametrize("told", [True, False], ids=["length told", "chunked"])
def test_a_body_is_counted_as_it_comes_in(told: bool) -> None:
    read = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            async for part in Request(scope, receive).stream():
                read.append(len(part))
        except RefusedError as error:
            await PlainTextResponse(str(error), error.status)(scope, receive, send)
        else:
            await PlainTextResponse("all")(scope, receive, send)

    client = TestClient(BodyLimit(app, most=100))
    body = b"x" * 100 if told else iter([b"x" * 60, b"x" * 40])
    assert client.post("/", content=body).text == "all"
    assert sum(read) == 100
    read.clear()
    body = b"x" * 101 if told else iter([b"x" * 60, b"x" * 41, b"x" * 10**6])
    answer = client.post("/", content=body)
    assert (answer.status_code, "at most 100 bytes" in answer.text) == (413, True)
    assert sum(read) <= 60


# ---- who may ask -----------------------------------------------------------------------------------------------------


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


def at(host: str, *, token: str | None = None, local: bool = True) -> TestClient:
    return TestClient(Guard(hello, token=token, local=local), base_url=f"http://{host}", follow_redirects=False)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_on_loopback_its_own_names_are_answered(host: str) -> None:
    assert at("x").get("/", headers={"Host": host}).text == "hello"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_on_loopback_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    answer = at("x").get("/", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"].count("\n")) == (403, 0)
    assert "localhost only" in answer.json()["error"]


def test_elsewhere_any_name_is_answered_but_not_without_the_token() -> None:
    client = at("photos.example", token="a-long-token", local=False)
    assert client.get("/api/info").status_code == 401
    assert client.get("/api/info").headers["WWW-Authenticate"] == "Bearer"
    for wrong in ("a-long-tokem", "a-long-token2", "", "é"):
        assert client.get("/", headers={"Authorization": f"Bearer {wrong}".encode()}).status_code == 401
        assert client.get("/", params={"token": wrong}).status_code == 401
    assert client.get("/", headers={"Authorization": "Basic a-long-token"}).status_code == 401
    assert client.get("/", headers={"Authorization": "bearer a-long-token"}).text == "hello"
    assert client.get("/api/info", params={"token": "a-long-token"}).status_code == 401, "only at /"


def test_the_token_in_the_address_becomes_a_cookie_that_no_script_sees() -> None:
    client = at("photos.example", token="a-long-token", local=False)
    welcome = client.get("/", params={"token": "a-long-token"})
    assert (welcome.status_code, welcome.headers["location"]) == (303, "./")
    cookie = welcome.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get("/api/info").text == "hello"
    other = at("photos.example", token="another-token", local=False)
    other.cookies = client.cookies
    assert other.get("/api/info").status_code == 401, "a server with another token doesn't know it"


def test_every_answer_tells_browsers_what_a_page_may_do() -> None:
    for answer in (at("127.0.0.1").get("/"), at("evil.example").get("/"), at("127.0.0.1", token="12345678").get("/")):
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_token_is_made_only_where_others_can_reach_the_server() -> None:
    assert token_for("127.0.0.1", None) is None
    assert token_for("::1", None) is None
    made = {token_for("0.0.0.0", None), token_for("192.168.0.2", None), token_for("my-machine", None)}
    assert len(made) == 3
    assert all(token is not None and len(token) >= 32 for token in made)
    assert token_for("127.0.0.1", "mine-and-long") == "mine-and-long"
    for bad in ("short", "with a space", 'quo"ted-token', "überlanges-token", "semi;colon"):
        with pytest.raises(ConfigError, match="at least 8 letters"):
            token_for("127.0.0.1", bad)


@pytest.mark.parametrize(
    ("host", "only_here"), [("127.8.8.8", True), ("::1", True), ("[::1]", True), ("10.0.0.1", False), ("x.de", False)]
)
def test_loopback_is_told_by_the_address(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here


def test_a_host_is_read_without_its_port() -> None:
    assert [host_name(host) for host in ("a.b:1", "A.b", "[::1]:80", "[::1]", "")] == ["a.b", "a.b", "::1", "::1", ""]


# ---- thumbnails, listening -------------------------------------------------------------------------------------------


def test_thumbnails_that_were_not_asked_for_lately_make_room() -> None:
    kept = Thumbnails(room=10)
    for name in "ab":
        kept.put((name, 1), b"1234", kept.generation)
    assert kept.get(("a", 1)) == b"1234"
    kept.put(("c", 1), b"1234", kept.generation)
    assert [kept.get((name, 1)) is not None for name in "abc"] == [True, False, True]
    assert kept.size == 8


def test_a_thumbnail_made_before_the_index_changed_is_not_kept() -> None:
    kept = Thumbnails()
    before = kept.generation
    kept.clear()
    kept.put(("a", 1), b"1234", before)
    assert kept.get(("a", 1)) is None
    assert kept.size == 0


def test_a_port_in_use_and_an_address_of_others_are_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"no such address|can't be listened at"):
        listen("no-such-host.invalid", 0)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:0 can't be listened at"):
        listen("192.0.2.1", 0)


def test_what_is_not_installed_is_said_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "lpi.serve")
    with pytest.raises(MissingExtraError, match=r"serving needs .*fastapi.*-e '\.\[serve\]'"):
        importlib.import_module("lpi.serve")


def test_port_0_is_a_free_one_and_the_address_is_one_to_open() -> None:
    with listen("localhost", 0) as opened:
        assert opened.getsockname()[1] > 0
    assert page_address("0.0.0.0", 80) == f"http://{socket.gethostname()}:80/"
    assert page_address("[::1]", 80) == "http://[::1]:80/"


def test_the_page_asks_for_nothing_at_the_root_of_its_host() -> None:
    """It may lie under a path: behind a proxy, say."""
    for file in sorted(PAGE.iterdir()):
        absolute = re.findall(r"""(?:href|src|fetch)\W{1,2}["'`](/[^"'`]*)|["'`](/api/[^"'`]*)""", file.read_text())
        assert not absolute, (file.name, absolute)
