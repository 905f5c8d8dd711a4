"""The picture of the search page in README.md: draw pictures, serve them with lpi-tiny, type, and shoot.

python benchmarks/screenshot.py --out docs/images/search.jpg          needs playwright, and chromium on the PATH
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from lpi.data.scenes import load_scenes

FAMILIES = ["animal", "vehicle", "food", "sports"]
QUERY = "a black cat on a farm"
SIZE = {"width": 1280, "height": 760}


def draw(folder: Path, pictures: int) -> None:
    """Draw so many pictures of each family."""
    for number, record in enumerate(load_scenes(families=FAMILIES, train=pictures, validation=0, test=0, held_out=0)):
        file = folder / record.task / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        record.picture.open(400).save(file)


def shoot(address: str, out: Path) -> None:
    """Type the query as a person would, and keep what is seen."""
    with sync_playwright() as driver:
        switches = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=switches)
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        page.fill("#words", QUERY)
        page.wait_for_selector("main .hit img")
        seen = "all.filter(image => image.getBoundingClientRect().top < innerHeight)"
        page.locator("main .hit img").evaluate_all(f"all => Promise.all({seen}.map(image => image.decode()))")
        page.screenshot(path=out, quality=85)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/search.jpg"))
    parser.add_argument("--pictures", type=int, default=40, help="of each family")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "pictures"
        draw(photos, options.pictures)
        command = [sys.executable, "-m", "lpi", "serve", str(photos), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = next(found.group(0) for line in server.stdout if (found := re.search(r"http://\S+", line)))
            shoot(address, options.out)
            server.terminate()


if __name__ == "__main__":
    main()
