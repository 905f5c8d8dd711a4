"""The report: what the page says, what it leaves out, what it refuses."""

import builtins
import itertools
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from xml.etree import ElementTree

import pytest
from unit.report_fixture import make_run

from lpi.errors import CheckpointError, DataError, MissingExtraError, MissingFileError, OutputError
from lpi.report import find_runs, plots, read_run, write_report
from lpi.report.canvas import LIGHT, NAMES, Palette, Plot
from lpi.report.charts import running_steps, thinned
from lpi.report.plots import Heat, label_sides
from lpi.report.variants import leading, read_variants

pytest.importorskip("matplotlib", reason="the report's figures need matplotlib")

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """What the tests ask of a page: balanced tags, ids, links, headings, pictures, text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.faults, self.ids, self.tags, self.words = [], [], [], [], []
        self.feed(source)
        self.faults += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def undrawn(monkeypatch):
    """Figures without content, for tests of what stands around them."""
    monkeypatch.setattr(plots, "render", lambda name, draw, size: Plot(name, "<svg></svg>", b"", size[0]))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of two rows, the first over two seeds."""
    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / "runs", seed=seed) for seed in (0, 1)]
    runs.append(make_run(folder / "runs", row="finetune", gain=0.2, loss=0.08, pieces=("frozen", "log", "result")))
    path = write_report(runs, folder / "out")
    return path, path.read_text(encoding="utf-8")


def test_the_page_and_its_figures_are_written(report):
    path, _ = report
    assert path.name == "report.html"
    names = {figure.name for figure in (path.parent / "report").iterdir()}
    assert names == {
        *("learning-curves.png", "directions.png", "tasks-lpi.png", "tasks-finetune.png", "forgetting.png"),
        *("journeys.png", "routing-vision.png", "routing-text.png", "semantic-map.png", "semantic-similarity.png"),
        *("prompts-vision.png", "prompts-text.png", "losses.png"),
    }
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in (path.parent / "report").iterdir())


def test_the_page_is_well_formed_and_its_ids_are_unique(report):
    page = Page(report[1])
    assert page.faults == []
    assert len(page.ids) == len(set(page.ids))
    links = [attrs["href"] for attrs in page.all("a")]
    assert links
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    used = re.findall(r"url\(#([^)]+)\)", report[1]) + re.findall(r'xlink:href="#([^"]+)"', report[1])
    assert set(used) <= set(page.ids)


def test_the_page_asks_for_nothing_outside_itself(report):
    page = Page(report[1])
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"} == set()
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in page.all("img"))
    assert "@import" not in report[1]
    addresses = set(re.findall(r'https?://[^"\s)]+', report[1]))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_every_inline_figure_is_valid_svg_in_the_pages_colours(report):
    figures = re.findall(r"<svg.*?</svg>", report[1], flags=re.DOTALL)
    assert len(figures) == 13
    style = report[1][: report[1].index("</style>")]
    for source in figures:
        ElementTree.fromstring(source)
        assert "#fe0" not in source  # no stand-in is left
        assert set(re.findall(r"var\(--([a-z0-9-]+)\)", source)) <= set(LIGHT)
    assert all(f"--{name}:" in style for name in LIGHT)
    assert "prefers-color-scheme: dark" in style


def test_the_page_can_be_read_without_seeing_it(report):
    page = Page(report[1])
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("aria-label") for _, attrs in page.tags if attrs.get("role") == "img")
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_the_headline_says_the_figures_in_words(report):
    page = Page(report[1])
    rows = read_variants(find_runs(report[0].parent.parent / "runs"))
    lpi = next(row for row in rows if row.label == "lpi")
    final, zero = (100 * lpi.figure(name, "t2i_r1")[0] for name in ("final", "frozen"))
    sentence = f"After 3 tasks, learned one after another, lpi puts the right picture first for {final:.1f} %"
    assert sentence in page.text
    assert f"(frozen model: {zero:.1f} %)" in page.text
    assert "5,284" in page.text
    assert "0.17 % of the backbone" in page.text


def test_the_table_shows_mean_and_spread_of_each_row(report):
    rows = {row.label: row for row in read_variants(find_runs(report[0].parent.parent / "runs"))}
    text = Page(report[1]).text
    for row, seeds in (("lpi", 2), ("finetune", 1)):
        mean, deviation = rows[row].figure("final")
        assert len(rows[row].runs) == seeds
        assert f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if deviation is not None else "") in text


def test_right_examples_are_marked_by_more_than_colour(report):
    assert report[1].count('class="right"') == 4
    assert Page(report[1]).text.count("✓ right") == 4 + 1  # and the key
    assert "no right one in the first 5" in report[1]


def test_the_same_runs_give_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "runs", tasks=("a", "b"), pieces=("frozen", "tasks", "examples"))
    first, second = (write_report([run], tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    for figure in (tmp_path / "one" / "report").iterdir():
        assert figure.read_bytes() == (tmp_path / "two" / "report" / figure.name).read_bytes()


def test_what_a_run_has_not_is_left_out(tmp_path):
    run = make_run(tmp_path / "runs", pieces=())
    page = write_report([run], tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    source = page.read_text(encoding="utf-8")
    for anchor in ("examples", "routing", "relations", "training"):
        assert f'id="{anchor}"' not in source
    for anchor in ("results", "curves", "tasks", "configuration"):
        assert f'id="{anchor}"' in source
    assert "frozen model:" not in Page(source).text
    assert (tmp_path / "page" / "tasks-lpi.png").is_file()


def test_a_zero_shot_run_alone_makes_a_page(tmp_path, undrawn):
    run = make_run(tmp_path / "runs", row="zero_shot", gain=0.0, loss=0.0, pieces=("frozen", "result"))
    for stage in (run / "stages").iterdir():
        stage.unlink()  # it may keep its stages in frozen.json only
    text = Page(write_report([run], tmp_path).read_text(encoding="utf-8")).text
    assert "Without learning anything, the frozen backbone puts the right picture first" in text
    assert "Time to learn" not in text


def test_an_unfinished_run_says_how_far_it_is(tmp_path, undrawn):
    run = make_run(tmp_path / "runs", stages=2)
    assert "This run has finished 2 of 3 tasks" in write_report([run], tmp_path).read_text(encoding="utf-8")


def test_joint_training_stands_beside_as_a_line(tmp_path, undrawn):
    joint = make_run(tmp_path / "runs", row="joint", pieces=("frozen",))
    for stage in sorted((joint / "stages").iterdir())[:-1]:
        stage.unlink()
    source = write_report([make_run(tmp_path / "runs", pieces=("frozen",)), joint], tmp_path).read_text(
        encoding="utf-8"
    )
    assert "all at once" in source
    assert "joint ends at" in source


def test_a_run_of_one_task_can_be_shown(tmp_path, undrawn):
    run = make_run(tmp_path / "runs", tasks=("one",))
    page = Page(write_report([run], tmp_path).read_text(encoding="utf-8"))
    assert page.faults == []
    assert "After 1 task, lpi puts" in page.text


def test_a_heat_map_of_many_tasks_has_no_numbers_in_it():
    few, many = (
        plots.heat_map("heat", Heat([[0.1234] * count], ["row"], [f"c{n}" for n in range(count)])).svg
        for count in (4, 30)
    )
    assert ">12<" in few
    assert ">12<" not in many


def test_names_and_captions_are_only_text(tmp_path):
    evil = ("<script>alert(1)</script>", "$x_1$ & \x07", "\N{OCTOPUS} 魚")
    run = make_run(tmp_path / "runs", tasks=tuple(name.replace("/", "") for name in evil))
    examples = json.loads((run / "examples.json").read_text())
    examples[0]["query"] = '"><img src=x onerror=alert(1)>'
    (run / "examples.json").write_text(json.dumps(examples))
    source = write_report([run], tmp_path).read_text(encoding="utf-8")
    page = Page(source)
    assert page.faults == []
    assert page.all("script") == []
    assert all("onerror" not in attrs for attrs in page.all("img"))
    assert "\x07" not in source
    for figure in re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL):
        ElementTree.fromstring(figure)


def test_a_folder_of_runs_stands_for_all_of_them(tmp_path):
    runs = [make_run(tmp_path, seed=1), make_run(tmp_path, seed=0), make_run(tmp_path, row="finetune")]
    assert find_runs(tmp_path) == sorted(runs)
    rows = read_variants(find_runs(tmp_path))
    assert [(row.label, [run.seed for run in row.runs]) for row in rows] == [("finetune", [0]), ("lpi", [0, 1])]
    assert leading(rows).label == "lpi"


def test_experiments_and_orders_are_told_apart(tmp_path):
    runs = [make_run(tmp_path), make_run(tmp_path, experiment="other", tasks=("person", "animal", "food"))]
    assert [row.label for row in read_variants(runs)] == ["demo · lpi", "other · lpi · order 2"]


def test_runs_that_do_not_belong_together_are_refused(tmp_path):
    first = make_run(tmp_path)
    with pytest.raises(DataError, match="Write two reports"):
        read_variants([first, make_run(tmp_path, experiment="other", tasks=("a", "b"))])
    with pytest.raises(DataError, match="both 'lpi' with seed 0"):
        read_variants([first, first])
    with pytest.raises(DataError, match="at least one run folder"):
        read_variants([])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", '{"experiment": ', r"run\.json is damaged \(not valid JSON: line 1, column 16"),
        ("run.json", "[]", r"run\.json: expected dict; got list"),
        (
            "run.json",
            '{"experiment": "a", "row": "b", "seed": 0, "stream": {}, "method": {}}',
            "is a run of another version of lpi",
        ),
        ("run.json", '{"experiment": "a"}', r'run\.json: expected str under "row"; got nothing'),
        ("stages/00-food.json", '{"stage": 0}', r'00-food\.json: "task": Field required; got nothing'),
        ("frozen.json", "{}", r'frozen\.json: "stages": Field required; got nothing'),
        ("tasks.json", '{"names": ["a"], "similarity": [[1, 2]]}', r'"similarity" must be 1 rows of 1 numbers'),
        ("tasks.json", '{"names": ["a"], "positions": [[1]]}', r'"positions" must be 1 pairs'),
        ("examples.json", '[{"direction": "text_to_image"}]', r'examples\.json: expected str under "query"'),
        ("log.jsonl", '{"loss": 1.0}\n{"loss": \n', r"log\.jsonl, line 2 is damaged"),
        ("log.jsonl", '{"loss": "high"}\n', r'log\.jsonl, line 1: expected int or float under "loss"; got str'),
        ("log.jsonl", f'{{"loss": {10**400}}}\n', r'log\.jsonl, line 1: the number under "loss" is too large'),
        ("result.json", '{"tasks": "three"}', r'result\.json: "tasks": Input should be a valid integer; got .three'),
        ("result.json", b"\xff\xfe", r"result\.json is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    run = make_run(tmp_path)
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[], [0.1, 0.2, 0.3, 0.4], ["high"]])
def test_recalls_that_do_not_fit_the_stream_are_refused(tmp_path, values):
    run = make_run(tmp_path)
    path = run / "stages" / "00-food.json"
    stage = json.loads(path.read_text())
    stage["seen"] = dict.fromkeys(stage["seen"], values)
    path.write_text(json.dumps(stage))
    said = r"00-food\.json: (the figures must have one entry a task seen|.seen\.t2i_r1\.0.: Input should be)"
    with pytest.raises(CheckpointError, match=said):
        read_run(run)


def test_the_torn_last_line_of_a_stopped_run_is_passed_over(tmp_path):
    run = make_run(tmp_path)
    whole = len(read_run(run).log)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"task": "per')
    assert len(read_run(run).log) == whole


def test_steps_that_a_stopped_run_did_again_count_once(tmp_path):
    run = make_run(tmp_path)
    first = read_run(run).log
    again = [json.dumps({**record, "loss": 9.0}) + "\n" for record in first[-10:]]
    with (run / "log.jsonl").open("a") as log:
        log.writelines(again)
    log = read_run(run).log
    assert [record["step"] for record in log] == [record["step"] for record in first]
    assert [record["loss"] for record in log[-11:]] == [first[-11]["loss"], *[9.0] * 10]


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere: there is no such run folder"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"is not a run folder: no run\.json"):
        find_runs(tmp_path)
    with pytest.raises(CheckpointError, match=r"is not a run folder: it has no run\.json"):
        read_run(tmp_path)
    run = make_run(tmp_path, stages=0)
    with pytest.raises(CheckpointError, match="no stage was evaluated yet"):
        read_run(run)


def test_a_picture_outside_the_run_folder_is_refused(tmp_path, undrawn):
    run = make_run(tmp_path)
    examples = json.loads((run / "examples.json").read_text())
    examples[1]["query"] = "../../../secret.png"
    (run / "examples.json").write_text(json.dumps(examples))
    with pytest.raises(DataError, match=r"secret\.png' is outside the run folder"):
        write_report([run], tmp_path)


def test_a_broken_picture_is_named_and_a_lost_one_leaves_a_frame(tmp_path, undrawn):
    run = make_run(tmp_path)
    (run / "examples" / "0.png").unlink()
    assert "not in the run folder: examples/0.png" in write_report([run], tmp_path).read_text(encoding="utf-8")
    (run / "examples" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png: the picture can't be read"):
        write_report([run], tmp_path)


def test_a_place_that_can_not_be_written_is_named(tmp_path, undrawn):
    run = make_run(tmp_path, pieces=())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/report\.html: the report can't be written"):
        write_report([run], tmp_path / "file")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    run = make_run(tmp_path, pieces=())
    original = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"-e '\.\[report\]'"):
        write_report([run], tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_users_matplotlib_is_left_as_it_was(tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31.0, "axes.grid": True}):
        before = dict(mpl.rcParams)
        write_report([make_run(tmp_path, pieces=())], tmp_path)
        assert dict(mpl.rcParams) == before


def test_steps_run_on_when_the_log_counts_each_task_anew(tmp_path):
    steps, bounds = running_steps(read_run(make_run(tmp_path)))
    assert steps == [float(step) for step in range(120)]
    assert bounds == [("food", 0.0), ("animal", 40.0), ("person", 80.0)]


def test_a_long_log_is_thinned_to_means():
    steps, parts = thinned([0.0, 1.0, 2.0, 3.0, 4.0], [("loss", [1.0, 3.0, 5.0, 7.0, 9.0])], 3)
    assert steps == [0.5, 2.5, 4.0]
    assert parts == [("loss", [2.0, 6.0, 9.0])]


def test_labels_of_neighbours_go_to_different_sides():
    sides = label_sides(["1 food", "2 fruit", "3 far"], [[0.0, 0.0], [0.02, 0.0], [5.0, 5.0]])
    assert sides[0] != sides[1]


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["light", "dark"])
def test_the_numbers_in_a_heat_map_can_be_read_on_every_cell(page):
    style = (files("lpi.report") / "template" / "style.css").read_text(encoding="utf-8")
    part = style.split("prefers-color-scheme: dark")[page == "dark"]
    colours = {name: re.search(rf"--{name}: (#[0-9a-f]{{6}});", part)[1] for name in LIGHT if name in part}
    ends = [[int(colours[name][i : i + 2], 16) for i in (1, 3, 5)] for name in ("heat-0", "heat-1")]
    for step in range(101):
        cell = "#" + "".join(f"{round(a + (b - a) * step / 100):02x}" for a, b in zip(*ends, strict=True))
        ink = NAMES[int(Palette(variables=True).heat_ink(step / 100)[-2:], 16)]
        assert contrast(cell, colours[ink]) >= 4.5, step
    for name in ("ink", "muted", "good", "bad", "accent"):
        assert contrast(colours["surface"], {**colours, "accent": colours["series-0"]}[name]) >= 4.5, name
    assert page == "dark" or colours == LIGHT
