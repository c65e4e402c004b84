"""The command line: parses, calls the Python interface, prints.

Exit codes: 0 done, 1 it could not be done, 2 the command was used wrongly.
"""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot import __version__
from fewshot.errors import FewshotError, InvalidInputError, UnknownNameError

# Nothing here imports torch or timm: `fewshot --help` must answer at once. Commands import what they need.

app = typer.Typer(
    name="fewshot",
    help="From two images to a classifier that can be trusted, and honest comparisons of strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Backbone = Annotated[
    str, typer.Option(help="Packaged name, timm model, hf-hub:, local-dir:, or several joined with +.")
]
Augmentation = Annotated[str, typer.Option(help="Policy for training views; see `fewshot augmentations`.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable image.")]
FRUITS = (
    "Anjou, Cantaloupe, Conference, Galia-Melon, Golden-Delicious, Granny-Smith, Honeydew-Melon, Kaiser, Orange, "
    "Pink-Lady, Red-Delicious, Royal-Gala, Satsumas, Watermelon"
)
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither use nor keep stored features.")]


def main() -> None:
    """Run the command line and exit with its code."""
    # Spinning threads collapse when a core is busy; this must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except FewshotError as error:
        from fewshot.console import say

        say(f"Error: {error}")
        raise SystemExit(2 if isinstance(error, (UnknownNameError, InvalidInputError)) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fewshot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From two images to a classifier that can be trusted, and honest comparisons of strategies."""


@app.command()
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
    from fewshot.console import Watcher, print_json, print_report, say
    from fewshot.demo import run_demo

    names = [name.strip() for name in classes.split(",") if name.strip()]
    with Watcher(quiet=json) as watcher:
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
    if json:
        print_json(result.report.to_dict())
        return
    print_report(result.report)
    say("\nTrained on:")
    for photo in result.photos:
        say(f"  {photo}")
    say(f"Report: {out / 'report.html'} and {out / 'report.json'}  ({time.monotonic() - begin:.0f} s)")


@app.command()
def compare(
    train_dir: Annotated[Path, typer.Argument(help="Folder with one folder per class, or with train and test in it.")],
    test: Annotated[Path | None, typer.Option(help="Folder with test images, one folder per class.")] = None,
    unlabeled: Annotated[Path | None, typer.Option(help="Folder with images to compare the answers on.")] = None,
    strategies: Annotated[str, typer.Option(help="Names separated by commas, or 'all'.")] = "all",
    backbone: Backbone = "efficientnet_lite0",
    augmentation: Augmentation = "heavy",
    views: Annotated[int | None, typer.Option(help="Augmented views per image; 16, fewer for over 40 images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and report.md.")] = Path(
        "fewshot-report"
    ),
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(help="Repeats of cross-validation.")] = 2,
    jobs: Annotated[int, typer.Option(help="Processes that train networks.")] = 1,
    strict: Strict = False,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Train strategies on the same images and compare them on images none of them saw."""
    from fewshot.commands import prepare_folder
    from fewshot.comparison import compare as run
    from fewshot.console import Watcher, print_json, print_report, say

    prepare_folder(out)
    with Watcher(quiet=json) as watcher:
        report = run(
            train_dir,
            test,
            strategies=None if strategies == "all" else [name.strip() for name in strategies.split(",")],
            backbone=backbone,
            augmentation=augmentation,
            n_views=views,
            unlabeled=unlabeled,
            repeats=repeats,
            n_jobs=jobs,
            random_state=seed,
            cache=not no_cache,
            strict=strict,
            on_event=watcher,
        )
    report.to_html(out / "report.html")
    report.to_json(out / "report.json")
    report.to_markdown(out / "report.md")
    if json:
        print_json(report.to_dict())
        return
    print_report(report)
    say(f"Report: {out / 'report.html'}, report.json and report.md beside it")
    if augmentation == "heavy":
        settings = ["--views", report.environment["views per image"], "--seed", str(seed), "--backbone", backbone]
        command = shlex.join(["fewshot", "fit", str(train_dir), "-o", "MODEL", "--strategy", "NAME", *settings])
        say(f"To train one of them and keep it: {command}")


@app.command()
def bench(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(help="Folders with one folder per class, CSVs, fruits, leaves:FOLDER or torchvision:NAME."),
    ] = None,
    suite: Annotated[Path | None, typer.Option(help="TOML file that says all of this; options override it.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that a suite's {data} stands for.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="One more data set; can be given several times.")] = None,
    ways: Annotated[str | None, typer.Option(help="Classes per episode: 5, 2-10 or all. By default 5.")] = None,
    shots: Annotated[
        str | None, typer.Option(help="Training images per class: 1,5,10; or 1-10. By default 1,5.")
    ] = None,
    queries: Annotated[str | None, typer.Option(help="Queries per class: 15, or all others. By default 15.")] = None,
    imbalance: Annotated[
        float | None, typer.Option(help="Draw the classes' shares of the queries from Dirichlet(this).")
    ] = None,
    fixed_split: Annotated[
        bool | None, typer.Option("--fixed-split", help="Learn from the train split, ask about the test split.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes per data set and shots. By default 600.")] = None,
    trained_episodes: Annotated[
        int | None, typer.Option(help="At most so many for strategies that train networks. By default 30.")
    ] = None,
    strategies: Annotated[
        str | None, typer.Option(help="Strategies and heads, separated by commas; 'default' is five heads, or 'all'.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="One or several, separated by commas; + joins.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="Policy in the place of heavy.")] = None,
    views: Annotated[int | None, typer.Option(help="Augmented views per support image. By default 16.")] = None,
    reference: Annotated[str | None, typer.Option(help="Strategy that differences are taken to.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. By default fewshot-bench, or the suite's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = None,
    engine: Annotated[str, typer.Option(help="local, joblib or ray.")] = "local",
    jobs: Annotated[int | None, typer.Option(help="Threads, processes or actors. By default one per core.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; by default one on this machine.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    strict: Strict = False,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Evaluate strategies on hundreds of episodes drawn from data sets."""
    from fewshot.suites import run_suite, suite_from_options

    options = {
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "imbalance": imbalance,
        "fixed_split": fixed_split,
        "episodes": episodes,
        "trained_episodes": trained_episodes,
        "strategies": strategies,
        "backbones": backbone,
        "augmentation": augmentation,
        "views": views,
        "reference": reference,
        "out": None if out is None else str(out),
        "seed": seed,
    }
    chosen = suite_from_options(suite, data, [*(datasets or []), *(dataset or [])], options)
    from fewshot.console import Watcher, print_benchmark, print_json, say

    try:
        with Watcher(quiet=json) as watcher:
            report = run_suite(
                chosen,
                engine=engine,
                n_jobs=jobs,
                address=address,
                resume=resume,
                strict=strict,
                cache=not no_cache,
                on_event=watcher,
            )
    except KeyboardInterrupt:
        kept = " Features that were extracted are kept."
        if (Path(chosen.out) / "journal.jsonl").exists():
            kept = (
                f" Finished cells are kept in {chosen.out}: see them with `fewshot report {chosen.out}`, go on with "
                "the same command and --resume."
            )
        say(f"Interrupted.{kept}")
        raise typer.Exit(130) from None
    if json:
        print_json(report.to_dict())
        return
    print_benchmark(report)
    say(f"Report: {Path(chosen.out) / 'report.html'}, report.json and report.md beside it")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder that `fewshot bench` wrote.")],
    reference: Annotated[str | None, typer.Option(help="Strategy that differences are taken to.")] = None,
    json: Json = False,
) -> None:
    """Build a benchmark's report again from its journal, as far as the run has come."""
    from fewshot.console import print_benchmark, print_json, say
    from fewshot.results import load_run, write_reports

    found = load_run(run)
    if reference is not None:
        found = found.with_reference(reference)
    write_reports(found, run)
    if json:
        print_json(found.to_dict())
        return
    print_benchmark(found)
    say(f"Report: {run / 'report.html'}, report.json and report.md beside it")


@app.command()
def fit(
    directory: Annotated[Path, typer.Argument(help="Folder with one folder per class.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.")],
    strategy: Annotated[
        str, typer.Option(help="Name of a strategy, as `compare` shows it: its head and augmentation.")
    ] = "",
    head: Annotated[
        str | None, typer.Option(help="Name of a head; see `fewshot heads`. By default linear-probe.")
    ] = None,
    backbone: Backbone = "efficientnet_lite0",
    augmentation: Annotated[
        str | None, typer.Option(help="Policy for training views; see `fewshot augmentations`. By default light.")
    ] = None,
    views: Annotated[int, typer.Option(help="Augmented views per image.")] = 16,
    seed: Seed = 0,
    strict: Strict = False,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Train a classifier on a folder of images and save it."""
    from fewshot.commands import fit_folder, parts_of
    from fewshot.console import print_json, say

    if strategy and (head or augmentation):
        raise InvalidInputError("Give either --strategy or --head and --augmentation: a strategy says both.")
    parts = parts_of(strategy) if strategy else (head or "linear-probe", augmentation or "light")
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
        },
        strict=strict,
    )
    if json:
        print_json(summary)
        return
    for name, count in summary["classes"].items():
        say(f"{name}: {count} image{'s' if count != 1 else ''}")
    for note in summary["notes"]:
        say(f"- {note}")
    say(f"Model: {output}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `fewshot fit` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with every class's probability.")] = False,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Predict the class of images. Unreadable ones are listed and the rest is predicted."""
    from fewshot.commands import predict_images, prediction_rows
    from fewshot.console import print_json, say

    if csv and json:
        raise InvalidInputError("Give either --csv or --json.")
    classes, outcomes = predict_images(model, images, strict=strict)
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
                    typer.echo(f"{name}\t{label}\t{max(proba):.3f}")
    if json:
        print_json(
            {
                "predictions": [
                    {"image": n, "label": label, "proba": dict(zip(classes, p, strict=True))}
                    for n, label, p in predicted
                ],
                "errors": [{"image": n, "code": e.code, "message": e.message} for n, e in failed],
            }
        )
    for _, error in failed:
        say(f"Left out: {error}")
    if failed and not predicted and not n_predicted:
        raise typer.Exit(1)


@app.command()
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


@app.command()
def backbones(json: Json = False) -> None:
    """List backbones that need no network."""
    from fewshot.backbones import DEFAULT_BACKBONE, list_backbones

    rows = [(name, "the default" if name == DEFAULT_BACKBONE else "") for name in list_backbones()]
    _show("Backbones", rows, json)
    if not json:
        from fewshot.console import say

        say("Also: any pretrained timm model, hf-hub:org/model, local-dir:folder, and several joined with +.")


@app.command()
def heads(json: Json = False) -> None:
    """List heads."""
    from fewshot.heads import HEADS, list_heads

    _show("Heads", [(name, HEADS.describe(name)) for name in list_heads()], json)


@app.command()
def augmentations(json: Json = False) -> None:
    """List augmentation policies."""
    from fewshot.augment import POLICIES, list_augmentations

    _show("Augmentations", [(name, POLICIES.describe(name)) for name in list_augmentations()], json)


@app.command()
def strategies(json: Json = False) -> None:
    """List strategies: augmentation, backbone and head, as `compare` and `demo` know them."""
    from fewshot.strategies import STRATEGIES

    _show("Strategies", [(name, strategy.description) for name, strategy in STRATEGIES.items()], json)


@app.command()
def doctor(json: Json = False) -> None:
    """Show versions, device, which weights are here, and where features are stored."""
    from fewshot.commands import diagnose

    _show("Doctor", list(diagnose().items()), json)


def _show(title: str, rows: list[tuple[str, Any]], as_json: bool) -> None:
    from fewshot.console import print_json, print_names

    if as_json:
        print_json(dict(rows))
    else:
        print_names(title, [(name, str(text)) for name, text in rows])


if __name__ == "__main__":
    main()
