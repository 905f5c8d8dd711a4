"""Pictures of the search page: draw pictures, serve them with lpi-tiny, search, teach a domain on the page, and shoot.

    python benchmarks/screenshot.py --words ../shared/real/backbones/dino-minilm     needs playwright and chromium

Writes into ``--out``: ``search.jpg``, ``phone.jpg`` and ``dark.jpg``, a search on three screens; ``teaching.jpg``, what
a domain on trial would gain and lose; ``then-now.jpg``, the same words before and after it was adopted; and
``nothing-fits.jpg``, words that fit nothing, with the model ``--words``: one that knows enough words to tell.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from lpi import backbone, method
from lpi.data.scenes import load_scenes

FAMILIES = ["animal", "vehicle", "food", "sports"]
TAUGHT = "animal"
SEARCHED, COMPARED = "a black cat on a farm", "field notes, day 12: a lamb"
NONSENSE = "qwertz asdf"
SIZE, PHONE = {"width": 1280, "height": 760}, {"width": 390, "height": 844}
TOLD = "fetch('api/search?q=a&k=1').then(answer => answer.json()).then(found => found.fits_well)"
SHOWN = "all => Promise.all(all.filter(i => i.getBoundingClientRect().top < innerHeight).map(i => i.decode()))"


def draw(root: Path, pictures: int) -> None:
    """Draw so many pictures of each family to be searched, and captioned ones of the family to be taught."""
    drawn = load_scenes(families=FAMILIES, train=2 * pictures, validation=0, test=pictures, held_out=0)
    rows = []
    for number, record in enumerate(drawn):
        searched = record.split == "test"
        if not searched and record.task != TAUGHT:
            continue
        file = root / ("photos" if searched else "captioned") / record.task / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        record.picture.open(400).save(file)
        if not searched:
            split = "test" if len(rows) % 4 == 3 else "train"
            rows.append({"image": file.name, "captions": list(record.captions), "split": split})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "captioned" / TAUGHT / "captions.jsonl").write_text(lines, encoding="utf-8")


def settle(page: Page, out: Path) -> None:
    """Keep what is seen, once all of it has come; the page's policy forbids waiting by a script."""
    page.wait_for_selector("body:not(.busy) main .hit img")
    page.locator("main .hit img").evaluate_all(SHOWN)
    page.screenshot(path=out, type="jpeg", quality=85)


def shoot(page: Page, words: str, out: Path) -> None:
    """Type the words as a person would, and keep what is seen."""
    page.fill("#words", words)
    page.keyboard.press("Enter")
    page.wait_for_selector("main .found .hit img, main .columns .hit img")
    settle(page, out)


def look(page: Page, root: Path, out: Path) -> None:
    """Search on three screens, teach what was captioned, and hold then against now."""
    shoot(page, SEARCHED, out / "search.jpg")
    page.emulate_media(color_scheme="dark")
    settle(page, out / "dark.jpg")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(PHONE)
    settle(page, out / "phone.jpg")
    page.set_viewport_size(SIZE)
    page.click("#teach")
    page.set_input_files("#teaching input[webkitdirectory]", root / "captioned" / TAUGHT)
    page.fill("#domain", TAUGHT)
    page.keyboard.press("Enter")
    page.wait_for_selector("#teaching table", timeout=300_000)
    page.screenshot(path=out / "teaching.jpg", type="jpeg", quality=85)
    page.click("#teaching :text-matches('^Adopt it')")
    page.click("#teaching :text-is('Then and now')", timeout=300_000)
    page.wait_for_selector(".columns")
    shoot(page, COMPARED, out / "then-now.jpg")


@contextlib.contextmanager
def served(photos: Path, index: Path, model: str | Path) -> Iterator[Page]:
    """The page of a server of these pictures, in a browser."""
    command = [sys.executable, "-m", "lpi", "serve", str(photos), "--index", str(index), "--model", str(model)]
    with (
        subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as driver,
    ):
        assert server.stdout is not None
        address = next(found.group(0) for line in server.stdout if (found := re.search(r"http://\S+", line)))
        switches = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=switches)
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        page.wait_for_selector("main ul.opening")
        yield page
        browser.close()
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--pictures", type=int, default=80, help="of each family")
    parser.add_argument("--words", type=Path, help="a model that knows many words; without it, no nothing-fits.jpg")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root, options.pictures)
        photos, model = root / "photos", root / "model"
        method("lpi", backbone("lpi-tiny"), preset="best").save_pretrained(model)  # knows no domain yet
        with served(photos, root / "index", model) as page:
            look(page, root, options.out)
        if options.words is not None:
            with served(photos, root / "other", options.words) as page:
                while page.evaluate(TOLD) is None:  # it isn't measured yet how well pictures fit
                    page.wait_for_timeout(500)
                shoot(page, NONSENSE, options.out / "nothing-fits.jpg")


if __name__ == "__main__":
    main()
