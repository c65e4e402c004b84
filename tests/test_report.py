"""Reports: figures agree between renderings, names cannot harm, pages need nothing but themselves."""

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fewshot.report import Draws, ImageInfo, Pictures, Report, Result, StrategyInfo
from fewshot.report.html import embedded_json
from fewshot.report.markdown import show_accuracy, show_difference, show_seconds
from fewshot.report.model import percent
from fewshot.report.svg.base import Scale, clip

STRATEGIES = {
    "simple-cnn": StrategyInfo("simple-cnn", "simple-cnn", None, "none", 0, trains=True, description="small CNN"),
    "simple-cnn-tuned": StrategyInfo("simple-cnn-tuned", "simple-cnn-tuned", None, "heavy", 16, trains=True),
    "linear-probe": StrategyInfo("linear-probe", "linear-probe", "packaged:lite0", "none", 0, trains=False),
    "fine-tune": StrategyInfo("fine-tune", "fine-tune", "packaged:lite0", "heavy", 16, trains=True),
}
SKILL = {"simple-cnn": 0.1, "simple-cnn-tuned": 0.5, "linear-probe": 1.5, "fine-tune": 2.0}
HOSTILE = [
    "<script>alert(1)</script>.jpg",
    "\"><img src=x onerror='alert(1)'>",
    "a & b &amp; c",
    "new\nline|pipe`tick",
    "🍎 \u2028 \u2029.png",
    "bytes-\udc80.jpg",
    "</script><!-- ]]> {{ 7 * 7 }}",
]
VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


def jpeg(rng, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, tuple(rng.integers(0, 255, 3).tolist())).save(buffer, "JPEG")
    return buffer.getvalue()


def history_of(name):
    if name == "simple-cnn":
        return tuple({"phase": "train", "epoch": e, "loss": round(0.7 / e, 6)} for e in range(1, 6))
    if name == "simple-cnn-tuned":
        return tuple({"phase": "train", "step": s, "loss": round(0.7 + 0.1 * math.sin(s), 6)} for s in range(1, 81))
    if name == "fine-tune":
        rows = [{"phase": "rate 0", "step": 0, "validation_loss": 0.42}]
        for phase in ("rate 0.0001", "rate 0.001", "final"):
            rows += [{"phase": phase, "step": s, "loss": round(0.5 / s, 6)} for s in range(1, 11)]
            if phase != "final":
                rows.append({"phase": phase, "step": 10, "validation_loss": 0.4})
        return tuple(rows)
    return ()


def make_report(
    protocol="test-set", classes=("apple", "pear"), n_test=24, strategies=tuple(STRATEGIES), draws=False, names=None
):
    rng = np.random.default_rng(0)
    repeats = 2 if protocol == "cross-validation" else 1
    if protocol == "none":
        n_test = 0
    labels = [classes[i % len(classes)] for i in range(n_test)]
    names = names or []
    images = tuple(
        ImageInfo(names[i % len(names)] if names else f"test-{i}.jpg", None if protocol == "unlabelled" else label)
        for i, label in enumerate(labels)
    )
    train = tuple(
        ImageInfo(names[i % len(names)] if names else f"train-{i}.jpg", label)
        for i, label in enumerate(classes * (1 if protocol != "cross-validation" else 3))
    )
    if protocol == "cross-validation":
        images = train
        labels = [image.label for image in train]
    results = []
    for name in strategies:
        for repeat in range(repeats):
            logits = rng.normal(size=(len(labels), len(classes)))
            logits[np.arange(len(labels)), [classes.index(label) for label in labels]] += SKILL.get(name, 1.0)
            proba = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 6)
            for fold in range(repeats):
                test = tuple(range(fold, len(labels), repeats))
                results.append(
                    Result(
                        name,
                        repeat,
                        fold,
                        test,
                        tuple(tuple(p) for p in proba[list(test)].tolist()),
                        tuple(proba[list(test)].argmax(axis=1).tolist()),
                        extract_seconds=0.5,
                        fit_seconds=1.25,
                        predict_seconds=0.1,
                        history=history_of(name),
                        note="kept the frozen model" if name == "fine-tune" else "",
                    )
                )
    report = Report(
        title=f"{len(strategies)} strategies",
        protocol=protocol,
        class_names=tuple(classes),
        train_images=train,
        test_images=images,
        strategies=tuple(STRATEGIES.get(name) or replace(STRATEGIES["linear-probe"], name=name) for name in strategies),
        results=tuple(results),
        nearest=tuple(
            i % len(train) if protocol != "cross-validation" else (i + 1) % len(train) for i in range(len(images))
        ),
        notes=("Read 2 images.", "Left out 1 duplicate."),
        environment={"python": "3.12.1", "device": "CPU"},
        seed=7,
    )
    if draws:
        many = tuple(range(40))
        some = (3, 1, 30)
        report = report.with_draws(
            tuple(
                Draws(name, index, tuple(round(0.5 + 0.01 * (i % 7) + 0.05 * k, 6) for i in index))
                for k, name in enumerate(strategies)
                for index in [some if name.startswith("simple-cnn") else many]
            ),
            "40 draws of one image per class.",
        )
    return report


def with_pictures(report):
    rng = np.random.default_rng(1)
    return replace(
        report,
        pictures=Pictures(
            train={i: jpeg(rng) for i in range(min(4, len(report.train_images)))},
            test={i: jpeg(rng) for i in report.disagreements()[:5]} if report.test_images else {},
            views={"heavy: apple": tuple(jpeg(rng) for _ in range(4))},
        ),
    )


class Page(HTMLParser):
    """Collects text, table cells, attributes and ids, and fails where tags are not balanced."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.ids, self.rows, self.data = [], [], [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.data += text
        elif "style" not in self.open:
            self.texts.append(text)
            if "td" in self.open or "th" in self.open:
                self.rows[-1][-1] += " ".join(text.split()) and re.sub(r"\s+", " ", text)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts))

    def headings(self):
        return [value for tag, attributes in self.tags if tag == "section" for value in [attributes.get("id")]]


CASES = {
    "two classes": lambda: with_pictures(make_report(draws=True)),
    "cross-validation": lambda: with_pictures(make_report("cross-validation", tuple("abcdefghij"))),
    "twenty classes": lambda: make_report(classes=tuple(f"class number {i}" for i in range(20)), n_test=60),
    "300 images": lambda: make_report(n_test=300),
    "one strategy": lambda: with_pictures(make_report(strategies=("linear-probe",), draws=True)),
    "unlabelled": lambda: with_pictures(make_report("unlabelled")),
    "unlabelled, one strategy": lambda: make_report("unlabelled", strategies=("linear-probe",)),
    "none": lambda: with_pictures(make_report("none")),
    "none, no results": lambda: replace(make_report("none"), results=()),
    "no nearest": lambda: replace(
        with_pictures(make_report(strategies=("simple-cnn", "simple-cnn-tuned"))), nearest=()
    ),
    "hostile": lambda: with_pictures(
        make_report(classes=("<b>&\"'", "x|y\udc80"), names=HOSTILE, strategies=("linear-probe", "</title><script>"))
    ),
}


@pytest.fixture(params=CASES, scope="module")
def report(request):
    return CASES[request.param]()


def test_every_case_renders_one_self_contained_page(report, tmp_path):
    html = report.to_html()
    assert report.to_html(tmp_path / "a" / "report.html") == str(tmp_path / "a" / "report.html")
    assert (tmp_path / "a" / "report.html").read_text(encoding="utf-8") == html
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html.replace(page.data, ""))
    assert [tag for tag, attributes in page.tags if tag == "script"] == ["script"]
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["src"].startswith("data:image/jpeg;base64,")
            assert attributes["alt"]
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_embedded_data_is_the_report(report):
    data = Page(report.to_html()).data
    assert json.loads(data) == json.loads(json.dumps(report.to_dict()))
    assert data == embedded_json(report)
    assert not set("<>&\u2028\u2029") & set(data)


def test_json_gives_the_report_back(report, tmp_path):
    text = report.to_json()
    assert report.to_json(tmp_path / "report.json") == str(tmp_path / "report.json")
    assert Report.from_dict(json.loads(text)) == report
    assert Report.from_dict(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))) == report


def test_html_shows_the_figures_of_the_summary(report):
    rows = [[cell.strip() for cell in row] for row in Page(report.to_html()).rows]
    for row in report.summary():
        expected = [row.setting, show_seconds(row.training_seconds)]
        if report.has_accuracy:
            shown = [show_difference(row.differences[b]) if b in row.differences else "–" for b in report.baselines]
            figures = [percent(row.balanced_accuracy), f"{row.log_loss:.3f}", str(row.n_test)]
            compared = shown if len(report.strategies) > 1 else []
            expected = [show_accuracy(row.accuracy).removesuffix(" %"), *compared, *figures, *expected]
        assert [row.strategy.replace("\udc80", r"\udc80"), *expected] in rows


def test_markdown_shows_the_figures_of_the_summary(report, tmp_path):
    text = report.to_markdown()
    assert report.to_markdown(tmp_path / "report.md") == str(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    lines = tables[2 : 2 + len(report.strategies)]
    for line, row in zip(lines, report.summary(), strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert len(cells) == len(re.split(r"(?<!\\)\|", tables[0])) - 2
        if report.has_accuracy:
            assert cells[1:4] == [show_accuracy(row.accuracy), str(row.n_test), f"{percent(row.balanced_accuracy)} %"]
            assert cells[4] == f"{row.log_loss:.3f}"
            shown = [show_difference(row.differences[b]) if b in row.differences else "–" for b in report.baselines]
            assert cells[5:-2] == shown
        assert cells[-2] == row.setting
        assert float(cells[-1]) == pytest.approx(row.training_seconds, abs=0.51)


def test_marks_lie_inside_their_pictures(report):
    inside = 0
    width = height = 0.0
    for tag, attributes in Page(report.to_html()).tags:
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
        inside += len(x)
    assert inside or not report.has_accuracy


def test_interval_shows_as_value_and_ends():
    report = make_report()
    row = report.summary()[0]
    value, low, high = (f"{100 * v:.1f}" for v in row.accuracy)
    assert show_accuracy(row.accuracy) == f"{value} [{low}, {high}] %"
    assert show_difference(report.compare("fine-tune", "simple-cnn"))[0] in "+−"


def test_headline_names_the_best_strategy_its_interval_and_its_lead():
    report = make_report(n_test=200)
    best = max(report.summary(), key=lambda row: row.accuracy.value)
    text = Page(report.to_html()).text
    assert f"{best.strategy} labels {percent(best.accuracy.value)} % of 200 test images correctly" in text
    for base, difference in best.differences.items():
        assert f"{percent(difference.value)} points more" in text
        assert f"than {base}" in text


def test_without_labels_the_headline_says_that_accuracy_is_unknown():
    for protocol in ("none", "unlabelled"):
        report = make_report(protocol)
        assert "Accuracy cannot be estimated from these images" in report.to_html()
        assert "Accuracy cannot be estimated from these images" in report.to_markdown()
        assert not {"accuracy", "confusion", "log-loss"} & set(Page(report.to_html()).headings())


def test_agreement_matrix_gives_the_reports_agreement():
    report = make_report("unlabelled")
    page = Page(report.to_html())
    assert "agreement" in page.headings()
    assert percent(report.agreement("linear-probe", "fine-tune")) in page.text


def test_sections_without_data_disappear():
    full = Page(with_pictures(make_report(draws=True)).to_html()).headings()
    expected = ["training-images", "results", "accuracy", "draws", "log-loss", "training-curves", "confusion"]
    assert full == [*expected, "disputed", "views", "notes", "environment"]
    bare = Page(replace(make_report(strategies=("linear-probe",)), notes=()).to_html()).headings()
    assert bare == ["training-images", "results", "accuracy", "log-loss", "confusion", "environment"]


def test_hostile_names_are_shown_as_they_are():
    report = with_pictures(make_report(names=HOSTILE, classes=("<i>a</i>", "b")))
    html = report.to_html()
    page = Page(html)
    for name in HOSTILE[:2]:
        assert name in page.text
        assert name not in html
    assert r"bytes-\udc80.jpg" in html
    assert "{{ 7 * 7 }}" in json.loads(page.data)["train_images"][0]["name"] + page.text


def test_markdown_escapes_markup_in_names():
    text = make_report(strategies=("linear-probe", "<b>*x*|y\nz")).to_markdown()
    assert r"\<b\>\*x\*\|y z" in text


def test_shown_of_total_is_stated():
    report = with_pictures(make_report("cross-validation", tuple("abc")))
    assert "Showing 4 of 9." in Page(report.to_html()).text


def test_draws_are_paired_by_index():
    report = make_report(strategies=("simple-cnn", "linear-probe")).with_draws(
        (Draws("simple-cnn", (2, 0), (0.5, 0.6)), Draws("linear-probe", (0, 1, 2), (0.7, 0.1, 0.9))), "three draws"
    )
    rows = {row[0]: row for row in report.draws_summary()}
    assert rows["linear-probe"][1] == 3
    assert rows["linear-probe"][5]["simple-cnn"].value == pytest.approx(((0.7 - 0.6) + (0.9 - 0.5)) / 2)
    assert show_difference(rows["linear-probe"][5]["simple-cnn"]) in Page(report.to_html()).text
    assert "3 draws" in Page(report.to_html()).text


def test_one_draw_has_a_value_and_no_interval():
    report = make_report(strategies=("linear-probe",)).with_draws((Draws("linear-probe", (0,), (0.5,)),), "")
    assert "| 50.0 % |" in report.to_markdown()
    assert "inf" not in Page(report.to_html()).text.replace("information", "")


def test_summary_of_one_strategy_compares_to_nothing():
    (row,) = make_report(strategies=("linear-probe",)).summary()
    assert row.differences == {}
    assert row.accuracy.low <= row.accuracy.value <= row.accuracy.high


def test_diverged_training_still_has_a_page():
    report = make_report(strategies=("simple-cnn",))
    rows = ({"phase": "train", "step": 1, "loss": 0.5}, {"phase": "train", "step": 2, "loss": float("nan")})
    report = replace(report, results=(replace(report.results[0], history=rows),))
    assert "training-curves" in Page(report.to_html()).headings()
    only_nan = replace(report, results=(replace(report.results[0], history=rows[1:]),))
    assert "training-curves" not in Page(only_nan.to_html()).headings()


@pytest.mark.parametrize(("low", "high"), [(0, 100), (50, 70), (-3.2, 41), (0, 0.731), (0, 1e-9), (1, 2)])
def test_ticks_are_few_and_inside(low, high):
    ticks = Scale(low, high).ticks()
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_clip_keeps_both_ends():
    assert clip("short", 10) == "short"
    assert clip("a-very-long-name-of-a-strategy", 12) == "a-very-…tegy"
    assert len(clip("x" * 50, 12)) == 12


def test_the_terminal_shows_the_accuracies_of_every_report(report, capsys, monkeypatch):
    from fewshot import console

    monkeypatch.setattr(console.out, "width", 200)
    console.print_report(report)
    printed = capsys.readouterr().out
    for row in report.summary():
        if row.accuracy is not None:
            assert f"{100 * row.accuracy.value:.1f} [" in printed
