"""Commands that look after stored features: cache info, verify, clear, limit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fewshot.cli.options import Json

app = typer.Typer(name="cache", help="Look after stored features.", no_args_is_help=True)


@app.command()
def info(json: Json = False) -> None:
    """Show where features are stored, how many, how large, how old, and by which backbone."""
    from fewshot.console import print_json, print_names
    from fewshot.store.upkeep import inspect

    found = inspect()
    if json:
        print_json(_info_as_data(found))
    else:
        print_names("Feature store", _info_as_rows(found))
    if found.problem is not None:
        raise typer.Exit(1)


@app.command()
def verify(json: Json = False) -> None:
    """Check every stored vector; remove damaged ones. Exit code 1 when something was damaged, though it is mended."""
    from fewshot.console import print_json
    from fewshot.store.upkeep import verify as check

    found = check()
    if json:
        print_json({**vars(found), "sound": found.is_sound})
    else:
        typer.echo(f"{found.intact} vectors are intact.")
        if found.damaged:
            typer.echo(f"{found.damaged} were damaged and are removed; they are computed again when needed.")
        if found.rebuilt:
            typer.echo("The file itself was damaged and is made anew from what could be read.")
        if found.rescued:
            typer.echo(f"{found.rescued} of them were rescued from a damaged file.")
    if not found.is_sound:
        raise typer.Exit(1)


@app.command()
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove all stored features, also those of older versions. What is running computes them again."""
    from fewshot.console import print_json
    from fewshot.errors import InvalidInputError
    from fewshot.files import show_size
    from fewshot.store.place import default_place
    from fewshot.store.upkeep import clear as remove

    path = default_place().path
    if not yes and json:
        raise InvalidInputError("With --json nothing is asked; give --yes as well.")
    if not yes and not typer.confirm(f"Remove {path} and older versions of it?", err=True):
        raise typer.Exit(1)
    freed = remove(path)
    if json:
        print_json({"path": str(path), "freed_bytes": freed})
    else:
        typer.echo(f"{show_size(freed)} freed.")


@app.command()
def limit(
    size: Annotated[str | None, typer.Argument(help="5GB, 500MiB, 0 to keep nothing; without it, show it.")] = None,
    json: Json = False,
) -> None:
    """Show or set how large the store may become; the longest unused features make room."""
    from fewshot.console import print_json, say
    from fewshot.files import show_size
    from fewshot.store.place import default_place, find_limit, parse_size
    from fewshot.store.upkeep import set_limit

    path, removed = default_place().path, 0
    if size is not None:
        removed = set_limit(parse_size(size), path)
    now = find_limit(path)
    if json:
        print_json({"path": str(path), "limit_bytes": now.size, "origin": now.origin, "removed": removed})
        return
    typer.echo(f"The store may take {show_size(now.size)} ({now.origin}).")
    if removed:
        typer.echo(f"{removed} vectors were removed.")
    if size is not None and now.origin != "setting":
        say("FEWSHOT_CACHE_LIMIT is set and counts for more than this setting.")


def _info_as_data(found: Any) -> dict[str, Any]:
    return {
        **vars(found),
        "path": str(found.path),
        "oldest_use": min((maker.oldest_use for maker in found.makers), default=None),
        "newest_use": max((maker.newest_use for maker in found.makers), default=None),
        "makers": [vars(maker) for maker in found.makers],
        "others": {str(path): size for path, size in found.others.items()},
    }


def _info_as_rows(found: Any) -> list[tuple[str, str]]:
    from fewshot.files import show_size

    rows = [
        ("file", f"{found.path} ({found.origin})"),
        ("vectors", str(found.vectors)),
        ("size", f"{show_size(found.size_bytes)} of {show_size(found.limit_bytes)} ({found.limit_origin})"),
    ]
    if found.problem is not None:
        rows.append(("problem", f"{found.problem}; `fewshot cache verify` mends what can be mended"))
    if found.makers:
        rows.append(("longest unused", _when(min(maker.oldest_use for maker in found.makers))))
        rows.append(("last used", _when(max(maker.newest_use for maker in found.makers))))
    rows += [(maker.name or "unknown backbone", f"{maker.vectors} vectors") for maker in found.makers]
    rows += [(path.name, f"{show_size(size)}; `fewshot cache clear` removes it") for path, size in found.others.items()]
    return rows


def _when(seconds: Any) -> str:
    """Write a time for people. A damaged one is anything."""
    from datetime import UTC, datetime

    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H} h UTC"
    except (TypeError, ValueError, OverflowError, OSError):
        return "unknown"
