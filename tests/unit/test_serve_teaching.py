"""Teaching and forgetting over HTTP: on trial first, within limits, from the server's own page only."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from search_world import World, vectors_of
from starlette.testclient import TestClient

from lpi.errors import ConfigError, DataError
from lpi.search import SearchIndex
from lpi.search.recorded import on_record
from lpi.serve import sending
from lpi.serve.app import create_app
from lpi.serve.limits import Limits, RefusedError
from lpi.serve.sending import Sent, check_shapes, checked_name, drop_abandoned
from lpi.serve.service import Service
from lpi.storage import write_json
from lpi.tasks.stream import TaskStream

HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, stream: TaskStream) -> World:
    world = World.make(tmp_path_factory.mktemp("world"), stream)
    world.build()
    return world


@pytest.fixture
def world(ready: World, tmp_path: Path) -> World:
    return ready.copy(tmp_path / "mine")


def client_of(world: World, **limits: Any) -> TestClient:
    index = SearchIndex.open(world.index, device="cpu")
    service = Service(index, threads=1, limits=Limits(**limits), refresh_seconds=0.05)
    return TestClient(create_app(service), base_url=HERE)


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    with client_of(world) as client:
        yield client


def settled(client: TestClient, *states: str) -> dict[str, Any]:
    """The job, once it is in one of these states."""
    for _ in range(1200):
        told: dict[str, Any] = client.get("/api/teaching").json()
        if told["state"] in states:
            return told
        assert told["state"] in ("working", "stopping"), told
        time.sleep(0.05)
    raise AssertionError(told)


def ask(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def send_folder(client: TestClient, folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            ask(client.put("/api/teaching/files", params={"name": name}, content=file.read_bytes()))


def zipped(folder: Path, prefix: str = "", **more: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{prefix}{file.relative_to(folder).as_posix()}")
        for name, content in more.items():
            archive.writestr(name, content)
    return packed.getvalue()


def taught(client: TestClient, world: World) -> dict[str, Any]:
    """The third domain, sent as a folder and learned on trial."""
    ask(client.post("/api/teaching", json={"domain": "dull"}))
    send_folder(client, world.captioned / "dull")
    ask(client.post("/api/teaching/learn", json={}))
    return settled(client, "ready", "failed")


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_a_folder_is_learned_on_trial_adopted_and_forgotten(client: TestClient, world: World) -> None:
    before = vectors_of(SearchIndex.open(world.index, device="cpu"))
    told = taught(client, world)
    assert told["problem"] == ""
    assert [own["domain"] for own in told["gains"]] == ["dull (new)"]
    for own in told["gains"]:
        assert 0 <= own["before"] <= own["before_ten"] <= 1
        assert 0 <= own["after"] <= own["after_ten"] <= 1
    rows = [json.loads(line) for line in (world.captioned / "dull" / "captions.jsonl").read_text().splitlines()]
    assert told["tests"] == sum(row["split"] == "test" for row in rows)
    assert told["gains"][0]["captions"] == sum(len(row["captions"]) for row in rows if row["split"] == "test")
    assert told["among"] == len(SearchIndex.open(world.index, device="cpu")) + told["tests"], "all that can be found"
    assert SearchIndex.open(world.index, device="cpu").tasks == ["warm", "cold"]  # only on trial
    ask(client.post("/api/teaching/adopt"))
    assert settled(client, "done")["stage"] == 1
    for _ in range(400):
        if client.get("/api/info").json()["current"] == 1:
            break
        time.sleep(0.05)
    index = SearchIndex.open(world.index, device="cpu")
    assert index.tasks == ["warm", "cold", "dull"]
    kept = on_record(world.index)["dull"].records
    assert len(kept) == told["tests"]
    assert all(record.picture.path.is_file() for record in kept)  # what was sent measures what comes later
    ask(client.post("/api/teaching", json={"domain": "dull"}), 400)
    ask(client.delete("/api/domains/dull"))
    assert settled(client, "done")["forgets"]
    assert vectors_of(SearchIndex.open(world.index, device="cpu")) == before


def test_what_is_let_go_leaves_no_trace(client: TestClient, world: World) -> None:
    before = (world.index / "index.json").read_bytes()
    taught(client, world)
    assert ask(client.delete("/api/teaching"))["state"] == "none"
    assert (world.index / "index.json").read_bytes() == before
    assert list((world.index / "sent").glob("*")) == []
    assert on_record(world.index) == {}


def test_pictures_of_the_index_are_taught_by_typing_what_they_are(client: TestClient, world: World) -> None:
    hits = client.get("/api/search", params={"q": "gray", "k": 4, "folder": "dull"}).json()["hits"]
    captions = [{"id": hit["id"], "caption": f" a thing\n{place} "} for place, hit in enumerate(hits)]
    ask(client.post("/api/teaching", json={"domain": "grays", "captions": captions}))
    told = settled(client, "ready", "failed")
    assert (told["problem"], told["files"], told["tests"]) == ("", 4, 1)
    ask(client.post("/api/teaching/adopt"))
    settled(client, "done")
    assert SearchIndex.open(world.index, device="cpu").tasks == ["warm", "cold", "grays"]
    (record,) = on_record(world.index)["grays"].records
    assert record.captions[0].startswith("a thing ")


def test_a_zip_in_pieces_is_what_its_folder_is(client: TestClient, world: World) -> None:
    packed = zipped(world.captioned / "dull", "my birds/", **{"__MACOSX/._x.png": b"", "my birds/read.me": b"hello"})
    ask(client.post("/api/teaching", json={"domain": "dull"}))
    half = len(packed) // 2
    for at, piece in ((0, packed[:half]), (half, packed[half:])):
        ask(client.put("/api/teaching/files", params={"name": "birds.zip", "at": at}, content=piece))
    wrong = client.put("/api/teaching/files", params={"name": "birds.zip", "at": 1}, content=b"x")
    assert f"must begin at {len(packed)}; got at=1" in ask(wrong, 400)["error"]
    ask(client.post("/api/teaching/learn", json={}))
    told = settled(client, "ready", "failed")
    assert told["problem"] == ""
    rows = (world.captioned / "dull" / "captions.jsonl").read_text().splitlines()
    assert told["tests"] == sum('"test"' in row for row in rows)
    assert told["passed"] == 1  # read.me; what a system adds for itself isn't counted


def test_learning_deeper_comes_after_and_the_better_one_is_kept(client: TestClient, world: World) -> None:
    told = taught(client, world)
    if not told["deeper"]:  # the tiny method has no closed form: what it learned was all
        return
    first = told["gains"][0]
    ask(client.post("/api/teaching/learn", json={"deeper": True}))
    told = settled(client, "ready", "failed")
    assert (told["problem"], told["deeper"]) == ("", False)
    after = told["gains"][0]
    assert after["after"] + after["after_ten"] >= first["after"] + first["after_ten"]
    assert told["found_less"] == (after == first)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_only_one_domain_is_taught_at_a_time_and_in_order(client: TestClient) -> None:
    for call in ("learn", "adopt"):
        assert "nothing is being taught" in ask(client.post(f"/api/teaching/{call}", json={}), 409)["error"]
    refused = client.put("/api/teaching/files", params={"name": "a.png"}, content=b"x")
    assert "nothing is being taught" in ask(refused, 409)["error"]
    ask(client.post("/api/teaching", json={"domain": "one"}))
    again = client.post("/api/teaching", json={"domain": "two"})
    assert "'one' is being taught just now" in ask(again, 409)["error"]
    assert "'one' is sending" in ask(client.post("/api/teaching/adopt"), 409)["error"]
    ask(client.post("/api/teaching/learn", json={}))
    assert "no picture was sent" in settled(client, "failed")["problem"]
    ask(client.post("/api/teaching", json={"domain": "two"}))  # what failed is in nobody's way


@pytest.mark.parametrize("domain", [" ", "held-out", "a\0b"])
def test_a_domain_needs_a_name(client: TestClient, domain: str) -> None:
    assert "needs another name" in ask(client.post("/api/teaching", json={"domain": domain}), 400)["error"]


def test_what_is_unknown_is_said(client: TestClient) -> None:
    ask(client.delete("/api/domains/worm"), 404)
    assert "Did you mean 'warm'?" in client.delete("/api/domains/worm").json()["error"]
    assert "no domain is called 'cats/dogs'" in ask(client.delete("/api/domains/cats%2Fdogs"), 404)["error"]
    captions = [{"id": "0" * 32, "caption": "x"}]
    ask(client.post("/api/teaching", json={"domain": "x", "captions": captions}), 404)
    captions[0]["id"] = "../x"
    ask(client.post("/api/teaching", json={"domain": "x", "captions": captions}), 404)
    assert "domain is missing" in ask(client.post("/api/teaching", json={"domain": ""}), 400)["error"]
    unknown = client.post("/api/teaching", json={"domain": "x", "captoins": []})
    assert "there is no parameter 'captoins'" in ask(unknown, 400)["error"]


def test_another_sites_page_changes_nothing(client: TestClient) -> None:
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "null"},
    ):
        refused = client.post("/api/teaching", json={"domain": "x"}, headers=headers)
        assert "a page of another site" in ask(refused, 403)["error"]
        ask(client.delete("/api/domains/warm", headers=headers), 403)
        assert client.get("/api/teaching", headers=headers).json()["state"] == "none"
    for headers in ({"Sec-Fetch-Site": "same-origin", "Origin": "https://photos.example"}, {"Origin": HERE}):
        ask(client.post("/api/teaching", json={"domain": "x"}, headers=headers))
        ask(client.delete("/api/teaching", headers=headers))


def test_a_token_is_asked_for_as_everywhere_and_a_server_may_refuse_to_learn(world: World) -> None:
    index = SearchIndex.open(world.index, device="cpu")
    with TestClient(create_app(Service(index, threads=1), token="a-token-of-mine"), base_url=HERE) as client:
        ask(client.post("/api/teaching", json={"domain": "x"}), 401)
        bearer = {"Authorization": "Bearer a-token-of-mine"}
        ask(client.post("/api/teaching", json={"domain": "x"}, headers=bearer))
    with TestClient(create_app(Service(index, threads=1, teaching=False)), base_url=HERE) as client:
        assert client.post("/api/teaching", json={"domain": "x"}).status_code in (404, 405)
        assert client.get("/api/info").json()["teaching"] is False


def test_too_much_is_refused_before_it_is_kept(world: World) -> None:
    with client_of(world, lesson_bytes=2_000, lesson_files=3, upload_bytes=1_500) as client:
        ask(client.post("/api/teaching", json={"domain": "x"}))
        for place in range(3):
            ask(client.put("/api/teaching/files", params={"name": f"{place}.png"}, content=b"x" * 600))
        for name, size, said in (("3.png", 1, "at most 3 files"), ("2.png", 300, "at most 3 files")):
            at = 600 if name == "2.png" else 0
            refused = client.put("/api/teaching/files", params={"name": name, "at": at}, content=b"x" * size)
            assert said in ask(refused, 413)["error"]
        refused = client.put("/api/teaching/files", params={"name": "4.png"}, content=b"x" * 1_501)
        assert "at most 1,500 bytes" in ask(refused, 413)["error"]
        told = client.get("/api/teaching").json()
        assert (told["files"], told["bytes"]) == (3, 1_800)


@pytest.mark.parametrize(
    "name", ["../x.png", "/x.png", "a/../x.png", "a//x.png", ".x.png", "a\\x.png", "c:x.png", "x\n.png", "a/" * 9 + "x"]
)
def test_no_name_leads_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a plain name"):
        checked_name(name)
    sent = Sent(tmp_path / "sent", Limits())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    sent.add("a.zip", (tmp_path / "a.zip").read_bytes())
    stored = zipfile.ZipFile(tmp_path / "a.zip").namelist()[0]  # a null or a separator may be changed by the format
    hidden = any(part.startswith(".") for part in stored.split("/"))
    if hidden or not stored.endswith(".png"):
        sent.unpack()
    else:
        with pytest.raises(ConfigError, match="needs a plain name"):
            sent.unpack()
    assert [own.name for own in tmp_path.rglob("*.png")] == []


def test_what_is_no_picture_and_no_caption_is_refused(tmp_path: Path) -> None:
    sent = Sent(tmp_path / "sent", Limits())
    for name in ("run.sh", "page.html", "x.py", "x"):
        with pytest.raises(RefusedError, match="pictures and captions are wanted"):
            sent.add(name, b"x")


def bomb(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", b"\0" * 4_000_000)
    return (tmp_path / "bomb.zip").read_bytes()


def crowded(tmp_path: Path) -> bytes:
    content = bytearray(bomb(tmp_path))
    place = content.rfind(b"PK\5\6")
    struct.pack_into("<L", content, place + 12, 0xFFFFFFFF)  # as a zip of more than four thousand million bytes says
    return bytes(content)


def large(tmp_path: Path) -> bytes:
    """With a second end, of the form for large zips, which says another size and is the one that counts."""
    content = bomb(tmp_path)
    place = content.rfind(b"PK\5\6")
    begin = struct.unpack_from("<L", content, place + 16)[0]
    second = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, place - begin, begin)
    return content[:place] + second + struct.pack("<4sLQL", b"PK\6\7", 0, place, 1) + content[place:]


@pytest.mark.parametrize(
    ("packed", "kind", "said"),
    [
        (large, DataError, "a.zip: the zip can't be read .it is in the form for more than 4 GB"),
        (bomb, RefusedError, "at most 20,000 files of together 1,000,000 bytes"),
        (crowded, RefusedError, "holds too many files"),
        (lambda tmp_path: b"PK no zip at all", DataError, "a.zip: the zip can't be read"),
        (lambda tmp_path: bomb(tmp_path)[:-30], DataError, "a.zip: the zip can't be read"),
        (lambda tmp_path: bomb(tmp_path).replace(b"x.png", b"y.png", 1), DataError, "a.zip: the zip can't be read"),
    ],
)
def test_a_zip_may_not_be_more_than_it_seems(
    packed: Callable[[Path], bytes], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    sent = Sent(tmp_path / "sent", Limits(lesson_bytes=1_000_000))
    sent.add("a.zip", packed(tmp_path))
    with pytest.raises(kind, match=said):
        sent.unpack()
    assert sum(own.stat().st_size for own in sent.folder.rglob("*")) < 2_000_000


def test_a_zip_is_one_however_its_ending_is_written(tmp_path: Path) -> None:
    sent = Sent(tmp_path / "sent", Limits())
    sent.add("BIRDS.ZIP", bomb(tmp_path))
    assert [own.name for own in sent.unpack().iterdir()] == ["x.png"]


@pytest.mark.parametrize("name", ["a.png/b.png", f"{'a' * 280}.png"])
def test_a_name_that_the_disk_refuses_is_said(name: str, client: TestClient) -> None:
    ask(client.post("/api/teaching", json={"domain": "x"}))
    ask(client.put("/api/teaching/files", params={"name": "a.png"}, content=b"x"))
    refused = client.put("/api/teaching/files", params={"name": name}, content=b"x")
    assert "can't be kept: " in ask(refused, 400)["error"]


def test_a_picture_of_too_many_pixels_is_never_decoded(client: TestClient, world: World) -> None:
    Image.new("1", (9000, 8000)).save(world.root / "big.png")
    ask(client.post("/api/teaching", json={"domain": "x"}))
    rows = [{"image": f"{place}.png", "captions": ["x"]} for place in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    ask(client.put("/api/teaching/files", params={"name": "captions.jsonl"}, content=text.encode()))
    for place in range(3):
        content = (world.root / "big.png").read_bytes() + bytes(place)
        ask(client.put("/api/teaching/files", params={"name": f"{place}.png"}, content=content))
    ask(client.post("/api/teaching/learn", json={}))
    told = settled(client, "failed")["problem"]
    assert "must have at most 64,000,000 pixels; got 9000 x 8000" in told
    assert str(world.root) not in told
    assert not list((world.index / "sent").glob("*"))


def test_a_row_that_is_wrong_is_named_without_saying_where_the_index_lies(client: TestClient, world: World) -> None:
    ask(client.post("/api/teaching", json={"domain": "x"}))
    content = b'{"image": "a.png", "captions": ["x"]}\n'
    ask(client.put("/api/teaching/files", params={"name": "captions.jsonl"}, content=content))
    ask(client.post("/api/teaching/learn", json={}))
    told = settled(client, "failed")["problem"]
    assert told.startswith("captions.jsonl, line 1: ")
    assert str(world.root) not in told


# ---- cut short -------------------------------------------------------------------------------------------------------


def test_a_job_is_stopped_where_it_next_counts(client: TestClient, world: World, monkeypatch: Any) -> None:
    begun: list[bool] = []

    def slow(folder: Path) -> None:  # the first thing that is done under the writer's lock
        begun.append(True)
        while client.get("/api/teaching").json()["state"] == "working":
            time.sleep(0.02)

    monkeypatch.setattr("lpi.serve.teaching.drop_abandoned", slow)
    ask(client.post("/api/teaching", json={"domain": "dull"}))
    send_folder(client, world.captioned / "dull")
    ask(client.post("/api/teaching/learn", json={}))
    while not begun:
        time.sleep(0.02)
    assert ask(client.delete("/api/teaching"))["state"] in ("stopping", "none")
    settled(client, "none")
    assert list((world.index / "sent").glob("*")) == []
    assert SearchIndex.open(world.index, device="cpu").tasks == ["warm", "cold"]


def test_another_commands_lock_is_said_and_nothing_learned_is_lost(client: TestClient, world: World) -> None:
    from lpi.search.manifest import only_writer

    taught(client, world)
    with only_writer(world.index):
        ask(client.post("/api/teaching/adopt"))
        told = settled(client, "ready")
        assert "is being changed by another command" in told["problem"]
    ask(client.post("/api/teaching/adopt"))
    settled(client, "done")


def test_what_was_learned_is_not_adopted_into_another_index(client: TestClient, world: World) -> None:
    from lpi.search.writer import change

    taught(client, world)
    with change(world.index, device="cpu") as writer:
        writer.forget("cold")
    ask(client.post("/api/teaching/adopt"))
    assert "learned or forgot something else meanwhile" in settled(client, "ready")["problem"]


def test_a_server_that_is_killed_while_it_learns_leaves_the_index_as_it_was(world: World) -> None:
    before = (world.index / "index.json").read_bytes()
    command = [sys.executable, "-m", "lpi", "serve", "--index", str(world.index), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as server:
        assert server.stdout is not None
        address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
        with httpx.Client(base_url=address.rstrip("/")) as client:
            ask(client.post("/api/teaching", json={"domain": "dull"}))
            send_folder(client, world.captioned / "dull")  # type: ignore[arg-type]
            ask(client.post("/api/teaching/learn", json={}))
            while client.get("/api/teaching").json()["what"] != "learning":
                time.sleep(0.01)
        server.send_signal(signal.SIGKILL)
    assert (world.index / "index.json").read_bytes() == before
    with client_of(world) as again:
        assert taught(again, world)["problem"] == ""
        ask(again.post("/api/teaching/adopt"))
        settled(again, "done")
    assert SearchIndex.open(world.index, device="cpu").tasks == ["warm", "cold", "dull"]


def test_what_was_abandoned_goes_a_day_later(world: World, monkeypatch: Any) -> None:
    place = world.index / "sent" / "left"
    place.mkdir(parents=True)
    drop_abandoned(world.index)
    assert place.exists()
    monkeypatch.setattr(sending, "ABANDONED_SECONDS", -1.0)
    record = {"image": "/where/the/index/lay/sent/left/a.png", "captions": ["x"]}
    write_json(world.index / "tests" / "x.json", {"task": "x", "pictures": [record]})
    drop_abandoned(world.index)
    assert place.exists(), "a test set needs it, which an earlier version noted before the folder was moved"
    (world.index / "tests" / "x.json").unlink()
    drop_abandoned(world.index)
    assert not place.exists()


def test_what_was_sent_for_a_domain_goes_with_it_when_it_is_forgotten_for_good(
    world: World, type_command: Callable[..., Any]
) -> None:
    with client_of(world) as client:
        taught(client, world)
        ask(client.post("/api/teaching/adopt"))
        settled(client, "done")
    (sent,) = (world.index / "sent").iterdir()
    other = world.index / "sent" / "another"
    other.mkdir()
    place = ("--index", str(world.index), "--device", "cpu")
    assert type_command("forget", "dull", *place).code == 0
    assert sent.exists(), "rollback can bring the domain back"
    assert type_command("rollback", *place).code == 0
    assert type_command("forget", "dull", "--for-good", *place).code == 0
    assert not sent.exists()
    assert other.exists(), "it may be another domain's, on its way"


def test_the_size_of_a_picture_is_looked_up_in_its_first_bytes(tmp_path: Path) -> None:
    from lpi.data.records import CaptionedImage, FilePicture

    Image.new("1", (90, 80)).save(tmp_path / "a.png")
    record = CaptionedImage(FilePicture(tmp_path / "a.png", "a.png"), ("x",))
    check_shapes([record], 7200)
    with pytest.raises(RefusedError, match=r"a\.png must have at most 7,199 pixels; got 90 x 80"):
        check_shapes([record], 7199)
