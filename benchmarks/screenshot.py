"""Pictures of the search page: draw pictures, serve them with lpi-tiny, teach a domain, type, and shoot.

python benchmarks/screenshot.py               needs playwright, and chromium on the PATH

Writes ``search.jpg``, the page as it opens a search, and ``then-now.jpg``, the same words before and after a domain
was taught, into ``--out``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from lpi import backbone, method
from lpi.data.scenes import load_scenes

FAMILIES = ["animal", "vehicle", "food", "sports"]
TAUGHT = "animal"
SEARCHED, COMPARED = "a black cat on a farm", "field notes, day 12: a giraffe"
LEARNING = ("--set", "epochs=16", "--set", "batch=16", "--set", "captions_per_image=2", "--set", "learning_rate=0.012")
SIZE = {"width": 1280, "height": 760}
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


def lpi(*words: str) -> list[str]:
    return [sys.executable, "-m", "lpi", *words]


def shoot(page: Page, words: str, out: Path) -> None:
    """Type the words as a person would, and keep what is seen."""
    page.fill("#words", words)
    page.wait_for_selector("main .found .hit img")
    page.wait_for_function("!document.body.classList.contains('busy')")
    page.locator("main .found .hit img").evaluate_all(SHOWN)
    page.screenshot(path=out, quality=85)


def look(address: str, root: Path, out: Path) -> None:
    """Search, teach what was captioned, and hold then against now."""
    with sync_playwright() as driver:
        switches = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=switches)
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        shoot(page, SEARCHED, out / "search.jpg")
        index = str(root / "photos" / ".lpi-index")
        taught = str(root / "captioned" / TAUGHT)
        subprocess.run(lpi("teach", TAUGHT, taught, "--index", index, "--even-if-worse", *LEARNING), check=True)
        page.goto(f"{address}?stage=0&compare=1")
        shoot(page, COMPARED, out / "then-now.jpg")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--pictures", type=int, default=80, help="of each family")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), options.pictures)
        model = Path(folder) / "model"
        method("lpi", backbone("lpi-tiny"), preset="best").save_pretrained(model)  # knows no domain yet
        command = lpi("serve", str(Path(folder) / "photos"), "--model", str(model), "--port", "0")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = next(found.group(0) for line in server.stdout if (found := re.search(r"http://\S+", line)))
            look(address, Path(folder), options.out)
            server.terminate()


if __name__ == "__main__":
    main()
