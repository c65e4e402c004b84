"""``python -m fewshot`` is the command line."""

from fewshot.cli import main

if __name__ == "__main__":
    main()
