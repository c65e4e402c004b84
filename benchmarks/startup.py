"""Start-up: `fewshot --help` and `import fewshot` against `import torch`, in one interleaved run.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "fewshot --help": [sys.executable, "-m", "fewshot", "--help"],
    "import fewshot": [sys.executable, "-c", "import fewshot"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import fewshot.classifier": [sys.executable, "-c", "import fewshot.classifier"],
}
ROUNDS = 7


def main() -> None:
    """Run every command in turn, several rounds, and print medians and ratios."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    reference = statistics.median(seconds["import torch"])
    print("| command | median s | of `import torch` |\n|---|---|---|")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| `{name}` | {median:.2f} | {median / reference:.3f} |")


if __name__ == "__main__":
    main()
