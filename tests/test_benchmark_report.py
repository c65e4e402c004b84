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
from fewshot.report.benchmark_html import MOST_EMBEDDED, PER_EPISODE, embedded_json, results
from fewshot.report.benchmark_words import (
    caption,
    headline,
    mean_title,
    per_class,
    ranks_note,
    show_mean,
    show_p,
    show_test,
    show_time,
)
from fewshot.report.markdown import points
from fewshot.report.model import percent
from fewshot.report.svg.base import fit, spread, width_of
from fewshot.report.svg.cost import cost_accuracy
from fewshot.report.svg.heat import heat_map
from fewshot.significance import WinTieLoss, stratified_test
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


def equal(report):
    """Give every class as many queries: the balanced accuracy is the accuracy, and has no column of its own."""
    return replace(report, series=tuple(replace(one, balanced_accuracy=one.accuracy) for one in report.series))


def lacking(report, *datasets, k_shot="20"):
    """Leave a number of shots out on some data sets, as settings of one data set do."""
    left_out = datasets or ("birds",)
    return replace(
        report, series=tuple(one for one in report.series if one.k_shot != k_shot or one.dataset not in left_out)
    )


def lucky(sets=SETS, shots=("5",)):
    """Give the trained strategy few episodes, easy ones, on which it is the second of three."""
    hard, easy = [0.2] * 32, [0.9] * 8
    levels = {"fine-tune": easy, "prototypical": [0.91] * 8 + hard, "linear-probe": [0.8] * 8 + [0.21] * 32}
    report = make_report(sets, shots, tuple(levels))

    def change(one):
        values = levels[one.strategy]
        n, noise = len(values), np.random.default_rng(len(one.dataset)).normal(0, 0.002, 40)
        rest = {name: getattr(one, name)[:n] for name in PER_EPISODE if name != "accuracy"}
        return replace(one, accuracy=tuple((np.array(values) + noise[:n]).tolist()), **rest)

    return replace(report, series=tuple(map(change, report.series)))


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
    "birds without 20": lambda: lacking(make_report()),
    "only fruits with 20": lambda: lacking(uneven(make_report()), "flowers", "birds"),
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
    console.print_benchmark(equal(make_report()))
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


# --- few episodes beside many


def test_shots_of_an_episode_count_once():
    report = make_report(n=30)
    copies = replace(
        report,
        series=tuple(replace(report.find(one.dataset, one.strategy, "1"), k_shot=one.k_shot) for one in report.series),
    )
    # The same queries thrice are no more evidence than once.
    once, thrice = copies.compare("fine-tune", "prototypical", 1), copies.compare("fine-tune", "prototypical")
    assert thrice.n == once.n == 3 * 30
    assert thrice.p_value == pytest.approx(once.p_value)
    assert thrice.difference == pytest.approx(once.difference)


def test_over_shots_the_shared_episodes_are_averaged_first():
    report = lacking(uneven(make_report()))
    values = []
    for dataset in SETS:
        shots = SHOTS[:2] if dataset == "birds" else SHOTS
        pairs = [[report.find(dataset, name, k).accuracy[:8] for name in ("fine-tune", "prototypical")] for k in shots]
        values.append(np.mean([np.subtract(*pair) for pair in pairs], axis=0))
    found = report.compare("fine-tune", "prototypical")
    expected = stratified_test(values)
    assert found.difference == pytest.approx(tuple(expected.difference))
    assert found.p_value == pytest.approx(expected.p_value)
    assert found.n == 3 * 8
    with pytest.raises(InvalidInputError, match="no episodes in common at 20 shots"):
        lacking(report, *SETS).compare("fine-tune", "prototypical", 20)
    with pytest.raises(InvalidInputError, match=r"no episodes in common\.$"):
        replace(report, series=()).compare("fine-tune", "prototypical")


def test_shots_do_not_feign_differences():
    rng, found = np.random.default_rng(0), []
    base = make_report(("fruits",), tuple("12345"), ("a", "b"), n=20)
    for _ in range(200):
        drawn = {name: rng.normal(0.5, 0.1, 20) for name in "ab"}
        series = tuple(
            replace(one, accuracy=tuple((drawn[one.strategy] + rng.normal(0, 0.02, 20)).tolist()))
            for one in base.series
        )
        found.append(replace(base, series=series).compare("a", "b").p_value < 0.05)
    assert np.mean(found) < 0.1


def test_few_easy_episodes_win_nothing():
    report = lucky()
    findings = Findings(report)
    assert findings.overall["fine-tune", "5"].value > findings.overall["prototypical", "5"].value
    assert findings.order("5") == ["prototypical", "linear-probe"]
    assert [findings.best_on(dataset, "5") for dataset in SETS] == ["prototypical"] * 3
    assert report.ranks(5).names == ("prototypical", "fine-tune", "linear-probe")
    assert "By means over the 8 episodes of a data set that all ranked share." in ranks_note(findings, "5")
    said = headline(findings)
    assert said[0].startswith("With 5 training images per class, prototypical")
    assert "fine-tune ran on 8 of the 40 episodes and takes no part in this; see the paired differences." in said
    grid = results(findings, "5")
    assert [info.name for info, cells in grid.lines if any(top for _, top in cells)] == ["prototypical"]
    assert {info.name: [shown for shown, _ in cells] for info, cells in grid.lines}["fine-tune"].count("8") == 1


def test_pictures_mark_no_few_easy_episodes():
    report = lucky()
    findings = Findings(report)
    cost, heat = str(cost_accuracy(findings, "5")), str(heat_map(findings, "5"))
    # One step, of prototypical alone: a corner and an end.
    assert len(re.search(r'<polyline points="([^"]*)"', cost)[1].split()) == 2
    assert re.search(r"fine-tune: [^;]* s, [^;]* % \(n = 8\)", cost)
    assert "mean: prototypical" in heat
    assert "mean: fine-tune" not in heat
    assert "Bold is the highest of a column, of those with the full number of episodes." in Page(report.to_html()).text
    assert "Bold is the highest of a column." in Page(make_report().to_html()).text


def test_the_terminal_tells_few_episodes_by_their_number(capsys, monkeypatch):
    from fewshot import console

    monkeypatch.setattr(console.out, "width", 80)
    console.print_benchmark(equal(lucky(shots=SHOTS)))
    printed = capsys.readouterr().out
    assert printed.count("fine-tune (n = 8)") == len(SETS) + 1
    assert re.search(r"k = 1\b.*k = 5\b.*k = 20\b", printed)
    assert "takes no part in this" in re.sub(r"\s+", " ", printed)


def test_only_strategies_with_few_episodes_leave_none_to_be_best():
    full = [("fruits", name, "5") for name in ("prototypical", "linear-probe")]
    report = lucky()
    report = replace(
        report, series=tuple(one for one in report.series if (one.dataset, one.strategy, one.k_shot) not in full)
    )
    # On fruits the few episodes are all there are, elsewhere they are not.
    said = headline(Findings(report))
    assert said[0] == "No strategy was run on all episodes of all data sets, so none can be called best overall."
    assert "fine-tune ran on 8 of the" in said[1]


# --- numbers of shots that some data sets lack


def test_means_are_over_the_data_sets_that_have_the_shots():
    report = lacking(make_report())
    assert report.datasets_at(20) == ("fruits", "flowers")
    assert report.datasets_at(1) == SETS
    for name in SKILL:
        means = [report.accuracy(dataset, name, 20).value for dataset in ("fruits", "flowers")]
        assert report.overall(name, 20).value == pytest.approx(np.mean(means))
        assert report.across_datasets(name, 20).value == pytest.approx(np.mean(means))
    assert report.ranks(20).n_sets == 2
    assert report.ranks(1).n_sets == 3
    counts = report.win_tie_loss("fine-tune", "prototypical", 20)
    assert isinstance(counts, WinTieLoss)
    assert sum(counts) == 2
    # Of those that have it, a strategy must have all.
    less = replace(
        report, series=tuple(one for one in report.series if (one.dataset, one.strategy) != ("fruits", "fine-tune"))
    )
    assert less.overall("fine-tune", 20) is None
    assert less.overall("prototypical", 20) is not None
    alone = lacking(make_report(), "birds", "flowers")
    assert alone.overall("fine-tune", 20) == pytest.approx(alone.accuracy("fruits", "fine-tune", 20))
    assert alone.across_datasets("fine-tune", 20) is None
    assert alone.ranks(20) is None
    assert lacking(make_report(), *SETS).overall("fine-tune", 20) is None


def test_the_report_says_which_data_sets_have_the_shots(capsys, monkeypatch):
    from fewshot import console

    report = lacking(make_report())
    findings = Findings(report)
    note = "Of the 3 data sets, only fruits and flowers were measured with 20 training images per class"
    assert note in caption(findings, "20")
    assert "Of the" not in caption(findings, "5")
    assert note in Page(report.to_html()).text
    assert note in report.to_markdown()
    assert ranks_note(findings, "20").startswith("Ranks over fruits and flowers.")
    assert "on average over 2 of 3 data sets" in " ".join(headline(findings))
    assert "over 2 of 3" not in " ".join(headline(Findings(make_report())))
    title = "Mean of 3 data sets; with 20: fruits and flowers only"
    assert mean_title(findings, SHOTS) == title
    assert mean_title(findings, ("1",)) == "Mean of 3 data sets"
    monkeypatch.setattr(console.out, "width", 80)
    console.print_benchmark(equal(report))
    assert title in capsys.readouterr().out
    assert title in Page(report.to_html()).text
    assert "birds" not in str(heat_map(findings, "20"))


# --- progress


def watched(monkeypatch, events, **options):
    """Send (seconds, done, total) to a watcher."""
    from fewshot import console
    from fewshot.cells import Event

    now = [100.0]
    monkeypatch.setattr(console.err, "get_time", lambda: now[0])
    with console.Watcher(**options) as watcher:
        for seconds, done, total in events:
            now[0] = 100.0 + seconds
            watcher(Event("progress", "episodes", done, total))


def test_off_a_terminal_progress_is_a_line_at_times(monkeypatch, capsys):
    watched(monkeypatch, [(second, 10 * second, 600) for second in range(1, 61)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "episodes  150/600, 10/s, 0:00:45 left"
    watched(monkeypatch, [(20, 1, 4), (60, 2, 4)])
    assert capsys.readouterr().err.splitlines()[-1] == "episodes  2/4, 40.0 s each, 0:01:20 left"
    watched(monkeypatch, [(60, 1, 4), (90, 2, 4)], quiet=True)
    assert capsys.readouterr().err == ""


def test_a_curve_that_comes_after_its_training_is_no_progress(monkeypatch, capsys):
    from fewshot import console
    from fewshot.events import Event

    monkeypatch.setattr(console, "_SECONDS_PER_LINE", 0.0)
    with console.Watcher() as watcher:
        watcher(Event("progress", "mine: training", 3, 9, strategy="mine"))
        watcher(Event("history", "mine", row={"phase": "final", "step": 1, "loss": 0.5}))
        watcher(Event("history", "other", row={"phase": "train", "step": 1, "loss": 0.5}))
    assert [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()] == ["mine: training", "other train"]


def test_on_a_terminal_bars_show_the_rate(monkeypatch):
    from rich.console import Console

    from fewshot import console

    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, force_terminal=True, width=100))
    watched(monkeypatch, [(1, 100, 900), (21, 300, 900), (31, 400, 900)])
    assert "10/s" in shown.getvalue()
    assert "left" not in shown.getvalue()


@pytest.mark.parametrize(
    ("speed", "shown"), [(123.4, "123/s"), (1.0, "1/s"), (0.8, "1.2 s each"), (0.01, "100.0 s each")]
)
def test_rates_below_one_are_times(speed, shown):
    from fewshot.console import _rate

    assert _rate(speed) == shown
