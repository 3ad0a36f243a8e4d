"""Write the parts of docs/ that repeat what the code says; `--check` fails where they differ.

In a page, what stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced.
"""
# ruff: noqa: INP001, T201 - a script

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import typer.main

from breezeblock import config
from breezeblock.api.endpoints import ROUTES
from breezeblock.api.volume_actions import ACTIONS
from breezeblock.catalog import states
from breezeblock.cli.exits import Exit
from breezeblock.cli.root import app

DOCS = Path(__file__).parent.parent / "docs"
MARKED = re.compile(r"(<!-- generated: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def transitions() -> Iterator[str]:
    """Yield the tables of states."""
    for resource in ("volume", "snapshot", "attachment", "operation"):
        found = [step for step in states.TRANSITIONS if step.resource == resource]
        yield f"## {resource.capitalize()}s\n\n"
        yield "| Verb | From | While it works | Afterwards | When it fails | Note |\n"
        yield "|---|---|---|---|---|---|\n"
        for step in found:
            cells = (
                f"`{step.verb}`",
                _states(step.sources) or "(new)",
                _states((step.during,)) or "unchanged",
                _states((step.done,)) or "(gone)",
                _states((step.failed,)) or ("as before" if step.during else "-"),
                step.note or "",
            )
            yield f"| {' | '.join(cells)} |\n"
        yield "\n" if resource != "operation" else ""


def settings() -> Iterator[str]:
    """Yield a table for each section of the configuration."""
    texts = _attribute_docs(config)
    for section in msgspec.structs.fields(config.Config):
        if section.name == "backends":
            continue
        yield from _section(section.type, f"`[{section.name}]`", texts)
        if section.name == "images":
            yield from _section(config.S3Section, "`[images.s3]`", texts)
    yield from _section(config.PoolPolicy, "`[backends.NAME]`, whatever the kind", texts)


def commands() -> Iterator[str]:
    """Yield every command with its arguments and options."""
    root = typer.main.get_command(app)
    yield from _commands(root, "breezeblock")


def exit_codes() -> Iterator[str]:
    """Yield the exit codes."""
    texts = _attribute_docs(sys.modules[Exit.__module__])
    yield "| Code | Name | Meaning |\n|---|---|---|\n"
    for code in Exit:
        name = code.name.lower().replace("_", " ")
        yield f"| {code.value} | {name} | {texts.get(('Exit', code.name), '') or name.capitalize() + '.'} |\n"


def routes() -> Iterator[str]:
    """Yield every request of the Block Storage API, and the actions on volumes."""
    yield "| Request | Since | What it does |\n|---|---|---|\n"
    for endpoint in ROUTES.endpoints:
        does = (inspect.getdoc(endpoint.handler) or "").partition("\n")[0]
        yield f"| `{endpoint.method} {endpoint.path}` | 3.{endpoint.since} | {does} |\n"
    yield "\nActions on volumes: " + ", ".join(f"`{name}`" for name in ACTIONS) + ".\n"


GENERATED: dict[str, Callable[[], Iterator[str]]] = {
    "transitions": transitions,
    "settings": settings,
    "commands": commands,
    "exit_codes": exit_codes,
    "routes": routes,
}


def _states(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names if name)


def _section(kind: Any, title: str, texts: dict[tuple[str, str], str]) -> Iterator[str]:
    purpose = (inspect.getdoc(kind) or "").partition(": ")[2] or (inspect.getdoc(kind) or "")
    yield (
        f"### `{title}`\n\n{purpose[:1].upper()}{purpose[1:]}\n\n"
        if title.endswith("]")
        else (f"### {title.replace('[backends.NAME]', '`[backends.NAME]`')}\n\n{purpose}\n\n")
    )
    yield "| Key | Default | Allowed | Meaning |\n|---|---|---|---|\n"
    for field in msgspec.structs.fields(kind):
        default = _toml(field.default)
        meaning = texts.get((kind.__name__, field.name), "")
        yield f"| `{field.name}` | `{default}` | {_allowed(field.type)} | {meaning} |\n"
    yield "\n"


def _toml(value: object) -> str:
    return (
        f'"{value}"'
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _allowed(kind: Any) -> str:
    if get_origin(kind) is not None and hasattr(kind, "__metadata__"):
        base = get_args(kind)[0]
        (meta,) = kind.__metadata__
        limits = [
            f"from {meta.ge:_}" if meta.ge is not None else "",
            f"to {meta.le:_}" if meta.le is not None else "",
        ]
        if meta.pattern:
            return f"text: `{meta.pattern}`".replace("|", "\\|")
        if meta.min_length is not None:
            return f"text of {meta.min_length} to {meta.max_length} characters"
        return " ".join(filter(None, (_allowed(base), *limits))).replace("_", " ")
    if get_args(kind):
        return ", ".join(f'`"{value}"`' for value in get_args(kind))
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}.get(kind, str(kind))


def _attribute_docs(module: Any) -> dict[tuple[str, str], str]:
    """Return the text under each attribute of each class, which Python itself throws away."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            target = field.target if isinstance(field, ast.AnnAssign) else None
            if isinstance(field, ast.Assign):
                target = field.targets[0] if isinstance(field.targets[0], ast.Name) else None
            if not (isinstance(target, ast.Name) and isinstance(text, ast.Expr)):
                continue
            if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
                found[node.name, target.id] = " ".join(text.value.value.split())
    return found


def _commands(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _commands(child, f"{path} {name}")
        return
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help"
    ]
    synopsis = " ".join((path, *(_argument(parameter) for parameter in arguments)))
    yield f"### `{synopsis}`\n\n{' '.join((command.help or '').split())}\n\n"
    rows = [(f"`{_argument(parameter)}`", _sentence(parameter)) for parameter in arguments]
    rows += [(_option(parameter), _sentence(parameter)) for parameter in options]
    if rows:
        yield "| Argument or option | Meaning |\n|---|---|\n"
        for left, right in rows:
            yield f"| {left} | {right} |\n"
        yield "\n"


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} `{(parameter.metavar or parameter.name).upper()}`"


def _sentence(parameter: Any) -> str:
    text = parameter.help or ""
    if parameter.param_type_name == "option":
        if isinstance(parameter.envvar, str):
            text += f" Environment: `{parameter.envvar}`."
        if parameter.required:
            text += " Required."
        elif parameter.default not in (None, False, True, ()) and parameter.show_default is not False:
            text += f" Default: `{getattr(parameter.default, 'value', parameter.default)}`."
        elif parameter.default is True:
            text += f" Default: `{parameter.opts[0]}`."
    return text.replace("|", "\\|").strip()


def render(text: str) -> str:
    """Return a page with its generated parts made anew."""
    return MARKED.sub(lambda match: match[1] + "".join(GENERATED[match["name"]]()) + match[3], text)


def main() -> int:
    """Bring the pages up to date, or with `--check` say which are not."""
    stale = []
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (wanted := render(text)) != text:
            stale.append(page)
            if "--check" not in sys.argv:
                page.write_text(wanted, encoding="utf-8")
    for page in stale:
        print(page.relative_to(DOCS.parent), "differs from the code" if "--check" in sys.argv else "written")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
