"""Benchmark reports: figures agree between renderings, names cannot harm, and the odd reports render as well."""

import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from test_report import HOSTILE, Page

from fewshot.errors import InvalidInputError
from fewshot.report import ImageInfo, StrategyInfo
from fewshot.report.benchmark import BenchmarkReport, DatasetInfo, EpisodeExample, Series
from fewshot.report.benchmark_findings import Findings, bounded
from fewshot.report.benchmark_html import MOST_EMBEDDED, PER_EPISODE, embedded_json
from fewshot.report.benchmark_words import headline, per_class, show_mean, show_p, show_test, show_time
from fewshot.report.markdown import points
from fewshot.report.model import percent
from fewshot.report.svg.base import fit, spread, width_of
from fewshot.stats import Interval

SKILL = {"simple-cnn": 0.3, "prototypical": 0.6, "linear-probe": 0.62, "fine-tune": 0.66, "laplacian-shot": 0.7}
SETS, SHOTS, LONG = ("fruits", "flowers", "birds"), ("1", "5", "20"), "a name that is rather longer than a column"


def jpeg(seed):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), tuple(np.random.default_rng(seed).integers(0, 255, 3).tolist())).save(buffer, "JPEG")
    return buffer.getvalue()


def info_of(name):
    scratch = name.startswith("simple")
    setting = "transductive" if name.startswith("laplacian") else "inductive"
    backbone = None if scratch else "packaged:lite0"
    return StrategyInfo(name, name, backbone, "none", 0, scratch or name == "fine-tune", setting, f"what {name} is")


def make_series(rng, dataset, strategy, k_shot, position, n, skill):
    level = np.clip(skill - 0.03 * len(dataset) + 0.08 * position + rng.normal(0, 0.12, n), 0.02, 0.98)
    values = np.round(rng.binomial(25, level) / 25, 6)
    counts = rng.integers(0, 60, 10)
    sure = np.round(counts * np.linspace(0.05, 0.95, 10), 6)
    return Series(
        dataset=dataset,
        strategy=strategy,
        k_shot=k_shot,
        episodes=tuple(range(n)),
        accuracy=tuple(values.tolist()),
        balanced_accuracy=tuple(np.round(0.99 * values, 6).tolist()),
        log_loss=tuple(np.round(-np.log(level), 6).tolist()),
        brier=tuple(np.round(1 - level, 6).tolist()),
        seconds=tuple(np.round(rng.gamma(2, 0.1, n), 6).tolist()),
        calibration=tuple(
            zip(counts.astype(float).tolist(), sure.tolist(), (sure * 0.5).round(6).tolist(), strict=True)
        ),
        extract_seconds=0.0 if strategy.startswith("simple") else 12.5,
        fit_seconds=0.0123 * (1 + position),
        predict_seconds=0.0004,
        timed_alone=True,
    )


def make_report(sets=SETS, shots=SHOTS, names=tuple(SKILL), n=40, reference=None, missing=(), examples=(), skill=None):
    rng = np.random.default_rng(0)
    series = tuple(
        make_series(rng, dataset, name, k, position, n, skill or SKILL.get(name, 0.4 + 0.015 * place))
        for dataset in sets
        for position, k in enumerate(shots)
        for place, name in enumerate(names)
        if (dataset, name, k) not in missing
    )
    return BenchmarkReport(
        title=f"{len(names)} strategies",
        protocol="5 classes, 5 queries of each.",
        datasets=tuple(DatasetInfo(name, f"/data/{name}", 500, 20, 11, 60) for name in sets),
        strategies=tuple(info_of(name) for name in names),
        shots=tuple(shots),
        series=series,
        reference=reference or names[min(1, len(names) - 1)],
        notes=("Read 1500 images.",),
        environment={"python": "3.12.1", "device": "CPU"},
        seed=7,
        examples=tuple(examples),
    )


def make_example(kind="worst", names=("a/1.jpg", "b/1.jpg"), label="apple", pictures=True, **more):
    support = tuple(ImageInfo(name, f"{label} {i}") for i, name in enumerate(names))
    example = EpisodeExample(
        kind, "fruits", "prototypical", "1", 3, 0.2, 1.5, support, support[:1], (f"{label} 1",), **more
    )
    shown = {i: jpeg(i) for i in range(len(support))} if pictures else {}
    return replace(example, support_pictures=shown, missed_pictures={0: jpeg(9)} if pictures else {})


def uneven(report):
    """Give one strategy fewer episodes than the others."""
    fewer = ("episodes", "accuracy", "balanced_accuracy", "log_loss", "brier", "seconds")
    return replace(
        report,
        series=tuple(
            replace(one, **{name: getattr(one, name)[:8] for name in fewer}) if one.strategy == "fine-tune" else one
            for one in report.series
        ),
    )


MANY = tuple(f"{LONG} {i} ü🍎" for i in range(20))
CASES = {
    "usual": lambda: make_report(examples=[make_example(), make_example("slowest", pictures=False)]),
    "one data set": lambda: make_report(sets=("fruits",)),
    "one strategy": lambda: make_report(names=("prototypical",)),
    "one number of shots": lambda: make_report(shots=("5",)),
    "one of everything": lambda: make_report(("fruits",), ("1",), ("prototypical",), n=1),
    "one episode": lambda: make_report(n=1),
    "two data sets, two strategies": lambda: make_report(("fruits", "flowers"), ("1-10",), ("a", "b")),
    "uneven": lambda: uneven(make_report()),
    "missing": lambda: make_report(
        missing={("fruits", "fine-tune", "1"), *(("birds", "prototypical", k) for k in SHOTS)}
        | {("birds", name, "20") for name in SKILL}
    ),
    "reference missing": lambda: make_report(missing={(d, "prototypical", k) for d in SETS for k in SHOTS}),
    "nothing was run": lambda: replace(make_report(), series=()),
    "all equal": lambda: replace(
        make_report(),
        series=tuple(replace(one, accuracy=(1.0,) * len(one.accuracy)) for one in make_report().series),
    ),
    "no calibration": lambda: replace(
        make_report(), series=tuple(replace(one, calibration=((0.0, 0.0, 0.0),) * 10) for one in make_report().series)
    ),
    "twelve data sets": lambda: make_report(
        tuple(f"数据集 {i} {LONG}" for i in range(12)), ("1", "2", "20"), MANY, n=4
    ),
    "hostile": lambda: replace(
        make_report(
            (HOSTILE[0], HOSTILE[1], "bytes-\udc80"),
            ("1", "1-10"),
            (*HOSTILE[2:], "prototypical"),
            examples=[
                make_example(names=HOSTILE, label=HOSTILE[0]),
                make_example("<b>", names=HOSTILE, pictures=False),
            ],
        ),
        title=HOSTILE[1],
        protocol=HOSTILE[0],
        notes=tuple(HOSTILE),
        environment={HOSTILE[0]: HOSTILE[6]},
    ),
}


@pytest.fixture(params=CASES, scope="module")
def report(request):
    return CASES[request.param]()


@pytest.fixture(scope="module")
def findings(report):
    return Findings(report)


@pytest.fixture(scope="module")
def html(report):
    return report.to_html()


def said(text):
    """Show a name as a page does: without what is no UTF-8, and with single spaces."""
    return re.sub(r"\s+", " ", str(text).encode("utf-8", "backslashreplace").decode("utf-8")).strip()


def cells_of(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables_of(markdown):
    """Give the tables of a Markdown text as lists of rows of cells."""
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    return [[cells_of(line) for line in block] for block in blocks]


def test_json_gives_the_report_back(report, tmp_path):
    assert report.to_json(tmp_path / "report.json") == str(tmp_path / "report.json")
    assert BenchmarkReport.from_dict(json.loads(report.to_json())) == report
    assert BenchmarkReport.from_dict(report.to_dict()) == report


def test_every_case_renders_one_self_contained_page(html, report, tmp_path):
    assert report.to_html(tmp_path / "a" / "report.html") == str(tmp_path / "a" / "report.html")
    assert (tmp_path / "a" / "report.html").read_text(encoding="utf-8") == html
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html.replace(page.data, ""))
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"]
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert [tag for tag, _ in page.tags].count("h1") == 1
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["src"].startswith("data:image/jpeg;base64,")
            assert attributes["alt"]
        if tag == "svg":
            assert "aria-hidden" in attributes or attributes["aria-label"]


def test_embedded_data_is_the_report(html, report):
    data, whole = embedded_json(report)
    assert Page(html).data == data
    assert not set("<>&\u2028\u2029") & set(data)
    assert len(data) <= MOST_EMBEDDED
    assert whole
    assert json.loads(data) == json.loads(json.dumps(report.to_dict()))


def test_a_long_report_leaves_out_single_episodes_and_says_so(monkeypatch):
    monkeypatch.setattr("fewshot.report.benchmark_html.MOST_EMBEDDED", 1000)
    report = make_report()
    page = Page(report.to_html())
    data = json.loads(page.data)
    assert "not the values of single episodes" in page.text
    assert not set(PER_EPISODE) & set(data["series"][0])
    assert data["series"][0]["extract_seconds"] == report.series[0].extract_seconds
    assert data["summary"] == json.loads(json.dumps(report.to_dict()))["summary"]
    with pytest.raises(InvalidInputError, match="benchmark without episodes"):
        BenchmarkReport.from_dict(data)


def test_html_shows_every_figure_of_the_summary(html, report, findings):
    rows = [[cell.strip() for cell in row] for row in Page(html).rows]
    for row in report.summary():
        expected = [show_mean(row.accuracy), show_test(row.difference), show_p(row.p_holm)]
        expected += [percent(row.balanced_accuracy), f"{row.log_loss:.3f}", f"{row.brier:.3f}"]
        expected.append(f"{row.ece:.3f}" if np.isfinite(row.ece) else "–")
        expected += [show_time(row.extract_seconds), show_time(row.fit_seconds), show_time(row.predict_seconds)]
        assert [said(row.strategy), str(row.n_episodes), *expected, row.setting] in rows
    for (name, k), interval in findings.overall.items():
        line = [said(name), show_mean(interval)]
        if (name, k) in findings.leads:
            test, p = findings.leads[name, k]
            line += [show_test(test), show_p(p)]
        assert any(row[: len(line)] == line for row in rows)


def test_markdown_shows_the_figures_in_well_formed_tables(report, tmp_path):
    text = report.to_markdown()
    assert report.to_markdown(tmp_path / "report.md") == str(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text
    tables = tables_of(text)
    for header, rule, *rows in tables:
        assert rows
        assert all(re.fullmatch("-+:?", cell) for cell in rule)
        assert {len(header)} == {len(line) for line in (rule, *rows)}
    shown = [row for _, _, *rows in tables for row in rows]
    for row in report.summary():
        figures = [str(row.n_episodes), percent(row.balanced_accuracy), f"{row.log_loss:.3f}", f"{row.brier:.3f}"]
        assert any(line[2:6] == figures for line in shown)
        assert any(cell.startswith(show_mean(row.accuracy)) for line in shown for cell in line)
        if row.difference is not None:
            difference = show_test(row.difference).replace("[", r"[")
            assert any(difference in line for line in shown)
    for block in text.split("\n\n"):
        assert block.startswith("|") or "\n|" not in block


def test_the_terminal_shows_every_accuracy(report, findings, capsys, monkeypatch):
    from fewshot import console

    monkeypatch.setattr(console.out, "width", 80)
    console.print_benchmark(report)
    printed = capsys.readouterr().out
    for row in report.summary():
        assert show_mean(row.accuracy) in printed
        if row.difference is not None:
            assert points(row.difference.difference.value, sign=True) in printed
    for interval in findings.overall.values():
        assert show_mean(interval) in printed
    tables = [line for line in printed.splitlines() if "±" in line and "half of" not in line]
    assert all(len(line.rstrip()) <= 80 for line in tables)


def test_the_terminal_fits_three_numbers_of_shots_beside_each_other(capsys, monkeypatch):
    from fewshot import console

    monkeypatch.setattr(console.out, "width", 80)
    console.print_benchmark(make_report())
    assert re.search(r"k = 1\b.*k = 5\b.*k = 20\b", capsys.readouterr().out)


def test_marks_and_names_lie_inside_their_pictures(html):
    width = height = 0.0
    for tag, attributes in Page(html).tags:
        if tag == "svg":
            _, _, width, height = map(float, attributes["viewbox"].split())
        x = [float(attributes[key]) for key in ("x", "cx", "x1", "x2") if key in attributes]
        y = [float(attributes[key]) for key in ("y", "cy", "y1", "y2") if key in attributes]
        if "points" in attributes:
            pairs = [point.split(",") for point in attributes["points"].split()]
            x, y = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
        extra = float(attributes.get("r", 0))
        x += [x[0] + float(attributes.get("width", 0)) + extra, x[0] - extra] if x else []
        y += [y[0] + float(attributes.get("height", 0)) + extra, y[0] - extra] if y else []
        assert all(-0.01 <= value <= width + 0.01 for value in x), (tag, attributes)
        assert all(-0.01 <= value <= height + 0.01 for value in y), (tag, attributes)


class Texts(Page):
    """Collects (picture, x, y, anchor, words) of every unturned text of the pictures."""

    def __init__(self, html):
        self.found, self.picture, self.now, self.width = [], -1, None, 0.0
        super().__init__(html)

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        given = dict(attributes)
        if tag == "svg":
            self.picture, self.width = self.picture + 1, float(given["viewbox"].split()[2])
        if tag == "text" and "transform" not in given:
            place = float(given["x"]), float(given["y"]), given.get("text-anchor", "start")
            self.now = [self.picture, self.width, *place, ""]
            self.found.append(self.now)

    def handle_endtag(self, tag):
        super().handle_endtag(tag)
        if tag == "text":
            self.now = None

    def handle_data(self, data):
        super().handle_data(data)
        # A tooltip inside a text is not drawn.
        if self.now is not None and self.open[-1] == "text":
            self.now[-1] += data


def test_no_two_texts_of_a_picture_overlap(html):
    boxes = {}
    for picture, width, x, y, anchor, words in Texts(html).found:
        # Narrower than what layout assumes, as most fonts are.
        wide = 0.82 * width_of(words)
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        assert left >= -4, words
        assert left + wide <= width + 4, words
        boxes.setdefault(picture, []).append((left, y - 8, left + wide, y + 1, words))
    for some in boxes.values():
        for i, a in enumerate(some):
            for b in some[i + 1 :]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_pictures_say_the_figures_of_the_report():
    report = make_report()
    findings, text = Findings(report), Page(report.to_html()).text
    for k in SHOTS:
        for name in SKILL:
            if name != report.reference:
                test, _ = findings.leads[name, k]
                low, high = points(test.difference.low), points(test.difference.high)
                assert f"{name}: {points(test.difference.value, sign=True)} [{low}, {high}]" in text
            assert f"{name} {findings.mean_rank(name, k):.2f}" in text
            assert (
                f"{name}: {show_time(findings.cost(name, k))} s, {percent(findings.overall[name, k].value)} %" in text
            )
        best = findings.best(k)
        assert f"mean: {best} {percent(findings.overall[best, k].value)}" in text
        for dataset in SETS:
            for name in SKILL:
                accuracy = report.accuracy(dataset, name, k)
                assert f"{name}, {dataset}: {percent(accuracy.value)} %" in text


def test_cost_is_the_share_of_the_features_and_training():
    report = make_report(n=50)
    findings = Findings(report)
    assert findings.cost("linear-probe", "1") == pytest.approx(12.5 / 50 + 0.0123)
    assert "plus the mean training time of an episode" in Page(report.to_html()).text


def test_sections_without_data_disappear():
    expected = ["results", "accuracy", "heat", "differences", "ranks", "cost", "reliability", "episodes", "everything"]
    assert Page(CASES["usual"]().to_html()).headings() == [*expected, "datasets", "notes", "environment"]
    bare = Page(CASES["one of everything"]().to_html()).headings()
    assert bare == ["results", "accuracy", "reliability", "everything", "datasets", "notes", "environment"]
    assert Page(CASES["nothing was run"]().to_html()).headings() == ["datasets", "notes", "environment"]
    assert "reliability" not in Page(CASES["no calibration"]().to_html()).headings()
    assert "differences" not in Page(CASES["reference missing"]().to_html()).headings()


def test_episodes_are_shown_with_pictures_and_answers():
    page = Page(CASES["usual"]().to_html())
    assert "Lowest accuracy" in page.text
    assert "Longest time" in page.text
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts.count("Training image of class apple 0") == 1
    assert "Query of class apple 0, taken for apple 1" in alts
    # Without pictures the names stand in their place.
    assert "a/1.jpg" in page.text


def test_the_headline_names_the_best_its_interval_and_its_lead():
    report = make_report(shots=("5",), n=400)
    findings = Findings(report)
    best = findings.best("5")
    interval, lead = findings.overall[best, "5"], findings.leads[best, "5"][0].difference
    first = headline(findings)[0]
    ends = f"95 % interval {percent(interval.low)} to {percent(interval.high)}"
    assert f"{best} is the most accurate: {percent(interval.value)} % ({ends})" in first
    assert f"{points(lead.value)} points ({points(lead.low)} to {points(lead.high)}) above prototypical" in first
    assert first in Page(report.to_html()).text


def test_the_headline_says_what_is_not_told_apart():
    findings = Findings(make_report(names=("a", "b", "c"), skill=0.5, n=20))
    text = " ".join(headline(findings))
    assert "is the most accurate" not in text
    assert "These episodes do not separate it from" in text
    assert findings.among_best() in text.split(".")[0]


def test_the_headline_tells_joint_answers_from_single_ones():
    text = " ".join(headline(Findings(make_report(n=300))))
    assert "laplacian-shot is transductive: it sees all queries of an episode at once." in text
    assert "Best of those that see one query at a time: fine-tune" in text
    assert "transductive" not in " ".join(headline(Findings(make_report(names=("prototypical", "fine-tune")))))


def test_without_a_complete_strategy_none_is_called_best():
    report = make_report(missing={("fruits", name, k) for name in ("fine-tune", "laplacian-shot") for k in SHOTS})
    assert Findings(report).best("1") in ("simple-cnn", "prototypical", "linear-probe")
    nobody = make_report(missing={(d, n, k) for d, n in zip(SETS * 2, SKILL, strict=False) for k in SHOTS})
    assert headline(Findings(nobody)) == ["No strategy was run on all data sets, so none can be called best overall."]


def test_of_one_episode_no_interval_is_shown():
    report = CASES["one episode"]()
    assert not any(bounded(row.accuracy) for row in report.summary())
    assert "±" not in re.sub("± half", "", Page(report.to_html()).text)


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        (Interval(0.636, 0.632, 0.640), "63.6 ± 0.4"),
        (Interval(0.98, 0.94, 1.0), "98.0 ± 4.0"),
        (Interval(0.5, 0.4997, 0.5003), "50.00 ± 0.03"),
        (Interval(1.0, 1.0, 1.0), "100.0 ± 0.0"),
        (Interval(0.5, 0.0, 1.0), "50.0"),
        (None, "–"),
    ],
)
def test_means_show_half_of_their_interval(interval, shown):
    assert show_mean(interval) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.0, "< 0.001"), (0.0009, "< 0.001"), (0.0123, "0.012"), (0.5, "0.50"), (1.0, "1.00"), (float("nan"), "–")],
)
def test_p_values_show_their_first_digits(p, shown):
    assert show_p(p) == shown


def test_shots_are_written_in_words():
    assert per_class("1") == "1 training image per class"
    assert per_class("1-10") == "1-10 training images per class"


def test_names_fit_their_room_and_labels_are_pushed_apart():
    assert fit("short", 100) == "short"
    for name in (LONG, "水果" * 20, "🍎" * 30, "e\u0301" * 60):
        assert width_of(fit(name, 100)) <= 100
    found = spread([10, 11, 12, 90], 14, 0, 60)
    assert all(b - a >= 14 for a, b in pairwise(found))
    assert max(found) <= 60
