"""`breezeblock user …`: who may sign in. Works on the database, with or without a running service."""

from typing import Annotated

import typer

from breezeblock.cli import options

app = typer.Typer(name="user", no_args_is_help=True, help="Users of the built-in identity service.")

Name = Annotated[str, typer.Argument(metavar="USER", help="The user's name.", show_default=False)]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password's line from standard input.")
]


@app.command("list")
def list_(config: options.Config = None, as_json: options.Json = False) -> None:
    """List users with their projects and roles."""
    from breezeblock.cli import output, server
    from breezeblock.identity import users

    with server.catalog(config) as database:
        found = users.list_users(database)
    if as_json:
        output.as_json(found)
    else:
        output.table(
            ("Name", "Default project", "Roles", "Enabled"),
            ((user.name, user.default_project, user.roles, user.enabled) for user in found),
            empty="No users.",
        )


@app.command()
def add(
    name: Name,
    project: Annotated[str, typer.Option(help="Project; made when it does not exist.", show_default=False)],
    role: Annotated[list[str] | None, typer.Option(help="Repeat for more: member, reader, admin.")] = None,
    password_stdin: PasswordStdin = False,
    config: options.Config = None,
) -> None:
    """Add a user. Without a given password one is made up and printed, once."""
    from breezeblock.cli import server
    from breezeblock.identity import users

    with server.catalog(config) as database:
        secret, made = _password(from_stdin=password_stdin)
        users.create_user(database, name, secret, project=project, roles=role or ["member"])
    _tell(secret, made=made)


@app.command()
def password(name: Name, password_stdin: PasswordStdin = False, config: options.Config = None) -> None:
    """Set a new password; tokens that were given out stop working. Without a given one, one is made up."""
    from breezeblock.cli import server
    from breezeblock.identity import users

    with server.catalog(config) as database:
        secret, made = _password(from_stdin=password_stdin)
        users.set_password(database, name, secret)
    _tell(secret, made=made)


@app.command()
def delete(name: Name, config: options.Config = None) -> None:
    """Delete a user; the project and its volumes stay."""
    from breezeblock.cli import server
    from breezeblock.identity import users

    with server.catalog(config) as database:
        users.delete_user(database, name)


def _password(*, from_stdin: bool) -> tuple[str, bool]:
    """Return a password and whether it was made up here. Never an argument: argv is for all to see."""
    import sys

    from breezeblock.identity import users

    if not from_stdin:
        return users.generate_password(), True
    given = sys.stdin.readline().rstrip("\n")
    if not given:
        raise typer.BadParameter("standard input holds no password", param_hint="--password-stdin")
    return given, False


def _tell(secret: str, *, made: bool) -> None:
    if made:
        typer.echo(secret)
