"""Commands that train on images, and use what was trained: demo, compare, fit, predict, augment."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot import interrupts
from fewshot.cli import command_line, program
from fewshot.cli.early import check_strategies
from fewshot.cli.options import Augmentation, Backbone, Json, KeepNear, NoCache, Representation, Seed, Strict
from fewshot.cli.outputs import results_first
from fewshot.errors import InvalidInputError

if TYPE_CHECKING:
    from fewshot.report.model import Report

NONE_OF_THEM = "(none of these)"
"""Printed in the place of a label."""

FRUITS = (
    "Anjou, Cantaloupe, Conference, Galia-Melon, Golden-Delicious, Granny-Smith, Honeydew-Melon, Kaiser, Orange, "
    "Pink-Lady, Red-Delicious, Royal-Gala, Satsumas, Watermelon"
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report and the photos.")] = Path("fewshot-demo"),
    classes: Annotated[
        str, typer.Option(help=f"Which fruits, separated by commas; random ones if omitted. There are: {FRUITS}.")
    ] = "",
    shots: Annotated[int, typer.Option(help="Training photos of each fruit.")] = 1,
    ways: Annotated[int, typer.Option(help="How many fruits, where they are random.")] = 2,
    views: Annotated[int, typer.Option(help="Augmented views per photo.")] = 16,
    seed: Seed = 0,
    seconds: Annotated[float, typer.Option(help="Start no further training run after this many seconds.")] = 70,
    json: Json = False,
) -> None:
    """Train every strategy on one photo of each of two fruits and test on all held-out photos."""
    begin = time.monotonic()
    interrupts.explain(lambda: f"Features that were extracted are kept; it goes faster now:\n  {command_line()}")
    from fewshot.commands import output_folder
    from fewshot.console import Watcher, print_json, print_report, say
    from fewshot.demo import run_demo

    names = [name.strip() for name in classes.split(",") if name.strip()]
    with output_folder(out), Watcher(quiet=json) as watcher:
        result = run_demo(
            out,
            classes=names,
            n_way=ways,
            k_shot=shots,
            n_views=views,
            seed=seed,
            deadline=begin + seconds,
            on_event=watcher,
        )
    with results_first() as written:
        written(result.write, out)
        if json:
            print_json(result.report.to_dict())
        else:
            print_report(result.report)
    if json:
        return
    say("\nTrained on:")
    for photo in result.photos:
        say(f"  {photo}")
    say(f"Report: {out / 'report.html'} and {out / 'report.json'}  ({time.monotonic() - begin:.0f} s)")


def compare(
    train_dir: Annotated[
        Path,
        typer.Argument(help="Folder of classes, or with train and test in it; an archive of it; or a CSV."),
    ],
    test: Annotated[Path | None, typer.Option(help="The same, with test images.")] = None,
    unlabeled: Annotated[Path | None, typer.Option(help="Folder with images to compare the answers on.")] = None,
    strategies: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    backbone: Backbone = "efficientnet_lite0",
    augmentation: Augmentation = "heavy",
    views: Annotated[int | None, typer.Option(help="Augmented views per image; 16, fewer for over 40 images.")] = None,
    representation: Representation = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and report.md.")] = Path(
        "fewshot-report"
    ),
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(help="Repeats of cross-validation.")] = 2,
    jobs: Annotated[int, typer.Option(help="Processes that train networks.")] = 1,
    strict: Strict = False,
    keep_near_duplicates: KeepNear = False,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Train strategies on the same images and compare them on images none of them saw."""
    interrupts.explain(lambda: _how_to_go_on(out, features=not no_cache))
    check_strategies(strategies)
    from fewshot.commands import output_folder
    from fewshot.comparison import compare as run
    from fewshot.console import Watcher, print_json, print_report, say
    from fewshot.kept_cells import discard_cells
    from fewshot.results import write_reports

    def write(report: Report) -> None:
        write_reports(report, out)
        discard_cells(out)

    with output_folder(out), Watcher(quiet=json) as watcher:
        report = run(
            train_dir,
            test,
            strategies=None if strategies == "all" else [name.strip() for name in strategies.split(",")],
            backbone=backbone,
            augmentation=augmentation,
            n_views=views,
            representation=representation,
            unlabeled=unlabeled,
            repeats=repeats,
            n_jobs=jobs,
            random_state=seed,
            cache=not no_cache,
            strict=strict,
            keep_near_duplicates=keep_near_duplicates,
            journal=out,
            on_event=watcher,
        )
    otherwise = f"The results are kept in {out}: the same command writes the report without computing them again."
    with results_first(otherwise) as written:
        written(write, report)
        if json:
            print_json(report.to_dict())
        else:
            print_report(report)
    if json:
        return
    say(f"Report: {out / 'report.html'}, report.json and report.md beside it")
    if augmentation == "heavy":
        settings = ["--views", report.environment["views per image"], "--seed", str(seed), "--backbone", backbone]
        settings += ["--representation", representation] if representation else []
        command = shlex.join([*program(), "fit", str(train_dir), "-o", "MODEL", "--strategy", "NAME", *settings])
        say(f"To train one of them and keep it: {command}")


def _how_to_go_on(out: Path, *, features: bool) -> str:
    from fewshot.journal import COMPARISON_FILE_NAME, count_records

    count = count_records(out / COMPARISON_FILE_NAME)
    if count:
        kept = f"{count} finished cell{'s are' if count > 1 else ' is'} kept in {out}; the same command goes on"
    else:
        kept = "Features that were extracted are kept; begin again" if features else "Nothing is finished; begin again"
    return f"{kept}:\n  {command_line()}"


def fit(
    directory: Annotated[Path, typer.Argument(help="Folder with one folder per class, an archive of it, or a CSV.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.")],
    strategy: Annotated[
        str, typer.Option(help="Name of a strategy, as `compare` shows it: its head and augmentation.")
    ] = "",
    head: Annotated[
        str | None, typer.Option(help="Name of a head; see `fewshot heads`. By default auto, which chooses.")
    ] = None,
    backbone: Backbone = "efficientnet_lite0",
    augmentation: Annotated[
        str | None,
        typer.Option(
            help="Policy for training views; see `fewshot augmentations`. By default light, none where a "
            "representation averages views of its own, and heavy where a pretrained network is trained."
        ),
    ] = None,
    views: Annotated[int, typer.Option(help="Augmented views per image.")] = 16,
    representation: Representation = None,
    unlabeled: Annotated[
        Path | None, typer.Option(help="Folder of images without labels, such as those to predict; they help, too.")
    ] = None,
    single_class: Annotated[
        bool, typer.Option("--single-class", help="Take a folder of one class, for `predict --reject`.")
    ] = False,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there already.")] = False,
    strict: Strict = False,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Train a classifier on a folder of images and save it."""
    kept = "" if no_cache else "Features that were extracted are kept. "
    interrupts.explain(lambda: f"No model was written. {kept}Begin again:\n  {command_line()}")
    from fewshot.commands import fit_folder, parts_of
    from fewshot.console import Watcher, print_json, say

    if strategy and (head or augmentation):
        raise InvalidInputError("Give either --strategy or --head and --augmentation: a strategy says both.")
    parts = parts_of(strategy) if strategy else (head or "auto", augmentation or "auto", "auto")
    with Watcher(quiet=json) as watcher:
        summary = fit_folder(
            directory,
            output,
            parameters={
                "head": parts[0],
                "backbone": backbone,
                "augmentation": parts[1],
                "n_views": views,
                "random_state": seed,
                "cache": not no_cache,
                "representation": representation or parts[2],
            },
            unlabeled=unlabeled,
            single_class=single_class,
            strict=strict,
            overwrite=overwrite,
            on_event=watcher,
        )
    if json:
        print_json(summary)
        return
    for name, count in summary["classes"].items():
        say(f"{name}: {count} image{'s' if count != 1 else ''}")
    for note in summary["notes"]:
        say(f"- {note}")
    use = [*program(), "predict", str(output), "new.jpg", *(["--reject"] if single_class else [])]
    say(f"Model: {output}. Use it with: {shlex.join(use)}")


def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `fewshot fit` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with every class's probability.")] = False,
    backbone: Annotated[
        str | None, typer.Option(help="Where its backbone is, for a model whose backbone is a folder or on the hub.")
    ] = None,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="Label all of them jointly: each is judged by the others, too.")
    ] = False,
    reject: Annotated[
        bool, typer.Option("--reject", help="Give no label to images that are of none of the classes.")
    ] = False,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Predict the class of images. Unreadable ones are listed and the rest is predicted."""
    finished: list[Any] = []
    interrupts.explain(lambda: _what_was_predicted(len(finished), printed=not json))
    from fewshot.commands import predict_images, prediction_rows
    from fewshot.console import print_json, say
    from fewshot.images.labels import show

    if csv and json:
        raise InvalidInputError("Give either --csv or --json.")
    classes, outcomes, findings = predict_images(
        model, images, strict=strict, backbone=backbone, transductive=transductive, reject=reject
    )
    outcomes = _noted(outcomes, finished)
    predicted: list[Any] = []
    failed: list[Any] = []
    n_predicted = 0
    if csv:
        n_predicted = prediction_rows(classes, outcomes, failed)
    else:
        for name, label, proba, error in outcomes:
            if error is not None:
                failed.append((name, error))
            else:
                predicted.append((name, label, proba))
                if not json:
                    answer = f"{show(label)}\t{max(proba):.3f}" if label else f"{NONE_OF_THEM}\t"
                    typer.echo(f"{show(name)}\t{answer}")
    if json:
        print_json(
            {
                "predictions": [
                    {"image": n, "label": label or None, "proba": dict(zip(classes, p, strict=True))}
                    for n, label, p in predicted
                ],
                "errors": [{"image": n, "code": e.code, "message": e.message} for n, e in failed],
                "findings": [finding.to_dict() for finding in findings],
            }
        )
    for _, error in failed:
        say(f"Left out: {error}")
    for finding in findings:
        say(f"- {finding.message}")
    rejected = sum(not label for _, label, _ in predicted)
    if reject and rejected > max(2, len(predicted) / 3):
        say(
            f"- {rejected} of {len(predicted)} images were taken for none of the classes. If most of them are of known "
            "classes, they differ from the training images in something else, such as camera or light: train on some."
        )
    if failed and not predicted and not n_predicted:
        raise typer.Exit(1)


def _noted(outcomes: Iterable[Any], finished: list[Any]) -> Iterator[Any]:
    """Pass outcomes on, and note the name of each once it has been dealt with."""
    for outcome in outcomes:
        yield outcome
        # What is printed is out, whatever ends the process.
        sys.stdout.flush()
        finished.append(outcome[0])


def _what_was_predicted(count: int, *, printed: bool) -> str:
    if not count:
        return f"Nothing was predicted yet. Begin again:\n  {command_line()}"
    done = f"{count} image{'' if count == 1 else 's'} {'was' if count == 1 else 'were'} predicted"
    kept = "their rows are complete" if printed else "nothing was printed; features that were extracted are kept"
    return f"{done}; {kept}. Begin again:\n  {command_line()}"


def suggest(
    model: Annotated[Path, typer.Argument(help="Folder that `fewshot fit` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Images without labels, or folders of them.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many to label next.")] = 10,
    backbone: Annotated[
        str | None, typer.Option(help="Where its backbone is, for a model whose backbone is a folder or on the hub.")
    ] = None,
    json: Json = False,
) -> None:
    """Name the images whose labels would teach the model most, as a set: asked for more, it may choose others."""
    from fewshot.commands import suggest_images
    from fewshot.console import print_json, say
    from fewshot.images.labels import show

    wanted, failed = suggest_images(model, images, count, backbone=backbone)
    if json:
        print_json(
            {
                "suggestions": wanted,
                "errors": [{"image": n, "code": e.code, "message": e.message} for n, e in failed],
            }
        )
    else:
        for name in wanted:
            typer.echo(show(name))
    for _, error in failed:
        say(f"Left out: {error}")
    if failed and not wanted:
        raise typer.Exit(1)


def augment(
    image: Annotated[Path, typer.Argument(help="The image.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture file to write.")] = Path("sheet.png"),
    policy: Annotated[str, typer.Option(help="Policy; see `fewshot augmentations`.")] = "heavy",
    views: Annotated[int, typer.Option(help="Views to show, besides the image itself.")] = 16,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of a view in pixels.")] = 224,
    seed: Seed = 0,
) -> None:
    """Draw a contact sheet of an image and its augmented views."""
    from fewshot.commands import contact_sheet
    from fewshot.console import say

    contact_sheet(image, output, policy=policy, n_views=views, seed=seed, size=size)
    say(f"Contact sheet: {output}")
