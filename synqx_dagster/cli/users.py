"""`synqx users`: accounts for the web UI and the API, from the machine itself."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from synqx_dagster.cli.figures import format_time, plural
from synqx_dagster.cli.options import PATH, SynqxSubgroup, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.passwords import ask_new_password, read_password_file
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pydantic import SecretStr

    from synqx_dagster.people.accounts import Accounts, User, UserChange

_ROLES = ("viewer", "operator", "editor", "admin")
_PAGE = 500

_password_file_option = click.option(
    "--password-file", type=PATH, help="Read the password from a file; - is standard input."
)


@click.group(cls=SynqxSubgroup)
def users() -> None:
    """List and change accounts, and bring them from another system."""


def _open_accounts() -> Accounts:
    from synqx_dagster.people.accounts import Accounts

    return Accounts(open_catalog())


def _document(user: User) -> dict[str, Any]:
    return {
        "id": str(user.user_id),
        "username": user.username,
        "email": user.email,
        "role": user.role.value,
        "teams": sorted(user.teams),
        "disabled": user.disabled,
        "has_password": user.has_password,
        "created_at": user.created_at,
        "last_login_at": user.last_login_at,
    }


@users.command("list")
@click.option("--role", type=click.Choice(_ROLES), help="Only those of a role.")
@click.option("--search", metavar="TEXT", help="Only those with this in their name or e-mail address.")
@json_option
@pass_output
def list_users(output: Output, role: str | None, search: str | None) -> None:
    """List accounts."""
    from synqx_dagster.people.roles import Role

    accounts = _open_accounts()
    found: list[User] = []
    while True:
        page, total = accounts.page(
            skip=len(found), limit=_PAGE, search=search, role=Role(role) if role is not None else None
        )
        found += page
        if not page or len(found) >= total:
            break

    def draw() -> None:
        if not found:
            output.print("No such users." if role or search else "No users: `synqx users add NAME --role admin`.")
            return
        output.table(
            ["user", "role", "teams", "e-mail", "state", "last login"],
            [
                [
                    user.username,
                    user.role.value,
                    ", ".join(sorted(user.teams)) or "-",
                    printable(user.email or "-"),
                    "disabled" if user.disabled else "active" if user.has_password else "no password",
                    format_time(user.last_login_at) if user.last_login_at else "-",
                ]
                for user in found
            ],
            fold=["teams", "e-mail"],
        )

    output.result([_document(user) for user in found], draw)


@users.command()
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES), default="viewer", show_default=True, help="What they may do.")
@click.option("--email", metavar="ADDRESS", help="Their e-mail address, by which they can log in, too.")
@click.option("--team", "teams", multiple=True, metavar="NAME", help="A team of theirs; may be repeated.")
@_password_file_option
@click.option("--no-password", is_flag=True, help="For a login by an OpenID provider alone.")
@json_option
@pass_output
def add(
    output: Output,
    name: str,
    role: str,
    email: str | None,
    teams: tuple[str, ...],
    password_file: Path | None,
    no_password: bool,
) -> None:
    """Make an account. Its password is asked for twice on a terminal."""
    from synqx_dagster.people.accounts import NewUser, check_new_user
    from synqx_dagster.people.roles import Role

    if no_password and password_file is not None:
        raise click.UsageError("give --password-file or --no-password, not both")
    accounts = _open_accounts()
    check_new_user(NewUser(name, Role(role), email, frozenset(teams)))
    password = None if no_password else _read_password(name, password_file)
    made = accounts.create(NewUser(name, Role(role), email, frozenset(teams), password))
    output.result(_document(made), lambda: output.print(f"{made.username} is {_article(role)} now."))


def _article(role: str) -> str:
    return f"a{'n' if role[0] in 'aeo' else ''} {role}"


def _read_password(name: str, password_file: Path | None) -> SecretStr:
    if password_file is not None:
        return read_password_file(password_file)
    if sys.stdin.isatty():
        return ask_new_password(f"New password for {name}")
    raise ConfigurationError(
        f"There is no terminal to ask for the password of {name}", hint="give --password-file PATH, or - for stdin"
    )


@users.command()
@click.argument("name")
@click.argument("role", type=click.Choice(_ROLES))
@json_option
@pass_output
def role(output: Output, name: str, role: str) -> None:
    """Give a user another role; it counts from their next request on."""
    from synqx_dagster.people.accounts import UserChange
    from synqx_dagster.people.roles import Role

    _update(output, name, UserChange(role=Role(role)), f"{{}} is {_article(role)} now.")


@users.command()
@click.argument("name")
@click.argument("teams", nargs=-1, metavar="[TEAM]...")
@json_option
@pass_output
def teams(output: Output, name: str, teams: tuple[str, ...]) -> None:
    """Say which teams a user is in, in place of those before; without a TEAM, in none."""
    from synqx_dagster.people.accounts import UserChange

    said = f"in {', '.join(sorted(set(teams)))}" if teams else "in no team"
    _update(output, name, UserChange(teams=frozenset(teams)), f"{{}} is {said} now.")


@users.command()
@click.argument("name")
@json_option
@pass_output
def disable(output: Output, name: str) -> None:
    """Shut a user out: no login, no session, token or key of theirs counts any more."""
    from synqx_dagster.people.accounts import UserChange

    _update(output, name, UserChange(disabled=True), "{} is disabled.")


@users.command()
@click.argument("name")
@json_option
@pass_output
def enable(output: Output, name: str) -> None:
    """Let a disabled user in again; they log in anew."""
    from synqx_dagster.people.accounts import UserChange

    _update(output, name, UserChange(disabled=False), "{} is enabled.")


def _update(output: Output, name: str, change: UserChange, said: str) -> None:
    accounts = _open_accounts()
    changed = accounts.update(accounts.get_by_name(name).user_id, change)
    output.result(_document(changed), lambda: output.print(said.format(changed.username)))


@users.command()
@click.argument("name")
@_password_file_option
@json_option
@pass_output
def password(output: Output, name: str, password_file: Path | None) -> None:
    """Give a user a new password, and end all of their logins."""
    accounts = _open_accounts()
    user = accounts.get_by_name(name)
    accounts.set_password(user.user_id, _read_password(user.username, password_file))
    output.result(
        {"username": user.username, "changed": True},
        lambda: output.print(f"{user.username} has a new password, and is logged out everywhere."),
    )


@users.command("import")
@click.argument("file", type=PATH)
@click.option("--role", type=click.Choice(_ROLES), default="viewer", show_default=True, help="Where a line names none.")
@click.option("--skip-existing", is_flag=True, help="Pass over users that there are already.")
@json_option
@pass_output
def import_users(output: Output, file: Path, role: str, skip_existing: bool) -> None:
    """Make accounts from lines of JSON in FILE (- is standard input): all of them, or none.

    Each line is an object with username, and where known email, role, teams, disabled and password_hash. A hash of
    bcrypt or Argon2 goes on working, and becomes one of today's at the next login.
    """
    from synqx_dagster.people.importing import read_users
    from synqx_dagster.people.roles import Role

    accounts = _open_accounts()
    try:
        with _opened(file) as lines:
            found = read_users(lines, file=str(file), default_role=Role(role))
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{file} is not UTF-8 text") from exc
    made, skipped = accounts.import_all((item.new for item in found), skip_existing=skip_existing)

    def draw() -> None:
        output.print(f"{plural(made, 'user')} made" + (f", {skipped} were there already." if skipped else "."))

    output.result({"created": made, "skipped": skipped}, draw)


def _opened(file: Path) -> AbstractContextManager[TextIO]:
    return nullcontext(sys.stdin) if str(file) == "-" else file.open(encoding="utf-8")
