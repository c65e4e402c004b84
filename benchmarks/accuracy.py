"""Accuracy of the default and of everything it is made of, against the yardstick, peers and what was left out.

    python benchmarks/accuracy.py SECTION... [--data FOLDER] [--only NAME,...] [--episodes 600] [--out FILE.md]

Sections, each in its own file beside this one:

heads          auto and every inductive head at 1, 2, 5, 10 shots; what an episode costs
peers          easyfsl's methods and StandardScaler + RBF-SVM, on plain and on tuned features of the same episodes
transductive   heads that label queries jointly, balanced queries and imbalanced ones
finetuning     training the last stages against the frozen default, and two images of two classes (--trained-episodes)
networks       training within a whole network (--trained-episodes)
probabilities  calibration of every head, and the reliability of auto's probabilities
novelty        images of unknown classes: AUROC against the largest probability, and the share rejected wrongly
suggest        accuracy by number of labels, suggested ones against random ones
expected       how often the interval for the accuracy to expect holds
ablation       each ingredient of the tuned representation and of auto, on and off
augmentation   augmented views of the training images, beside the averaged ones

`peers` needs `pip install 'fewshot[peers]'`. FOLDER holds data sets, each one folder per class, nested or with splits
(then the training split is used). The embedded fruits always take part. Images of a set are given to episodes of
5 ways and 15 queries per class, fewer where a class has fewer than 25 images. All strategies see the same episodes;
intervals are 95 % and speak of further episodes from these images. Features are kept in the default store
(FEWSHOT_CACHE), about 50 kB per image and network: raise FEWSHOT_CACHE_LIMIT where data sets are large.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from accuracy_common import Setting, find_datasets

SECTIONS = (
    "heads",
    "peers",
    "transductive",
    "finetuning",
    "networks",
    "probabilities",
    "novelty",
    "suggest",
    "expected",
    "ablation",
    "augmentation",
)


def main() -> None:
    """Print the sections asked for, and write them where a file is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of data sets")
    parser.add_argument("--only", default="", help="names of data sets, separated by commas; all if omitted")
    parser.add_argument(
        "--rows", default="", help="rows of the ablation, or kinds of peers, separated by commas; all if omitted"
    )
    parser.add_argument("--episodes", type=int, default=600, help="per data set and number of shots")
    parser.add_argument("--trained-episodes", type=int, default=5, help="the same for what trains networks")
    parser.add_argument("--journal", type=Path, help="folder where fine-tuning keeps what is finished, to go on later")
    parser.add_argument("--out", type=Path, help="file to write, besides printing")
    arguments = parser.parse_args()
    folder = arguments.data if arguments.data.is_dir() else None
    datasets = find_datasets(folder, [name for name in arguments.only.split(",") if name])
    rows = tuple(name for name in arguments.rows.split(",") if name)
    setting = Setting(datasets, arguments.episodes, arguments.trained_episodes, arguments.journal, rows)
    if arguments.out is not None:
        arguments.out.write_text("", encoding="utf-8")
    for name in arguments.sections:
        start = time.perf_counter()
        for line in importlib.import_module(f"accuracy_{name}").section(setting):
            say(line, arguments.out)
        say(f"<!-- {name}: {arguments.episodes} episodes, {time.perf_counter() - start:.0f} s -->\n", arguments.out)


def say(line: str, out: Path | None) -> None:
    """Print a line at once, and append it."""
    print(line, flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


if __name__ == "__main__":
    main()
