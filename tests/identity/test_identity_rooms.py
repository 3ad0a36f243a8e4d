"""Passwords, tokens and users below HTTP."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breezeblock.catalog import migrate, tables
from breezeblock.catalog.database import Database
from breezeblock.errors import DuplicateError, InvalidInputError, NotFoundError, UnauthenticatedError
from breezeblock.identity import Tokens, users
from breezeblock.identity.passwords import Verifier, hash_password, verify


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path / 'catalog.db'}")
    migrate.upgrade(found)
    yield found
    found.dispose()


def test_the_hash_is_salted_scrypt_and_says_how_it_was_made() -> None:
    one, two = hash_password("secret"), hash_password("secret")
    assert one != two
    assert one.startswith("scrypt$32768$8$1$")
    assert "secret" not in one
    assert verify("secret", one)
    assert not verify("Secret", one)
    assert not verify("", one)
    for broken in ("", "secret", "scrypt$1$1$1$$", "md5" + one[6:], one[:-1]):
        assert not verify("secret", broken)


@settings(max_examples=8, deadline=None)
@given(st.text(min_size=1, max_size=60), st.text(max_size=60))
def test_only_the_password_itself_verifies(password: str, other: str) -> None:
    stored = hash_password(password)
    assert verify(password, stored)
    if other.encode(errors="replace") != password.encode(errors="replace"):
        assert not verify(other, stored)


def test_a_verifier_remembers_right_answers_only() -> None:
    check = Verifier()
    stored = hash_password("secret")
    assert check("secret", stored)
    assert check("secret", stored)
    assert not check("wrong", stored)
    assert not check("secret", hash_password("changed"))
    assert not check("secret", None)


def test_only_the_hash_of_a_token_is_stored(database: Database) -> None:
    users.create_user(database, "u", "secret", project="p")
    tokens = Tokens(database)
    secret, issued = tokens.log_in("secret", user_name="u")
    with database.read() as connection:
        (row,) = connection.execute(tables.tokens.select()).all()
    assert row.hash == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(tuple(row))
    assert tokens.check(secret) == issued
    assert Tokens(database).check(secret) == issued
    assert tokens.revoke(secret)
    assert not tokens.revoke(secret)
    with pytest.raises(UnauthenticatedError):
        tokens.check(secret)


def test_tokens_expire_even_from_memory(database: Database) -> None:
    users.create_user(database, "u", "secret", project="p")
    tokens = Tokens(database, ttl_s=-1)
    secret, _ = tokens.log_in("secret", user_name="u")
    with pytest.raises(UnauthenticatedError):
        tokens.check(secret)
    live = Tokens(database, ttl_s=60)
    secret, _ = live.log_in("secret", user_name="u")
    live.check(secret)
    with database.read() as connection:
        assert len(connection.execute(tables.tokens.select()).all()) == 1  # the expired one was forgotten


def test_roles_contain_others() -> None:
    assert users.implied(["admin"]) == {"admin", "member", "reader"}
    assert users.implied(["member"]) == {"member", "reader"}
    assert users.implied(["reader"]) == {"reader"}


def test_users_and_projects(database: Database) -> None:
    user_id = users.create_user(database, "u", "secret", project="p", roles=["admin", "member"])
    assert len(user_id) == 32
    (found,) = users.list_users(database)
    assert (found.name, found.default_project) == ("u", "p")
    assert found.roles == {"p": ["admin", "member"]}
    assert not any("secret" in str(value) for value in (found.name, found.roles))
    with pytest.raises(DuplicateError):
        users.create_user(database, "u", "other", project="p")
    assert users.ensure_project(database, "p") == users.list_projects(database, "p")[0].id
    users.ensure_project(database, "q")
    users.set_roles(database, "u", project="q", roles=["reader"])
    assert users.list_users(database, "u")[0].roles == {"p": ["admin", "member"], "q": ["reader"]}
    users.set_roles(database, "u", project="q", roles=[])
    assert users.list_users(database, "u")[0].roles == {"p": ["admin", "member"]}
    users.delete_user(database, "u")
    assert users.list_users(database) == []
    with pytest.raises(NotFoundError):
        users.delete_user(database, "u")
    with pytest.raises(NotFoundError):
        users.set_password(database, "u", "x")


@pytest.mark.parametrize("name", ["", " u", "u\n", "a:b", "x" * 256, "\x00"])
def test_names_that_are_none(database: Database, name: str) -> None:
    with pytest.raises(InvalidInputError):
        users.create_user(database, name, "secret", project="p")
    with pytest.raises(InvalidInputError):
        users.ensure_project(database, name)


def test_roles_and_passwords_that_are_none(database: Database) -> None:
    with pytest.raises(InvalidInputError, match="boss"):
        users.create_user(database, "u", "secret", project="p", roles=["boss"])
    for password in ("", "x" * 5000):
        with pytest.raises(InvalidInputError):
            users.create_user(database, "u", password, project="p")


def test_disabled_users_and_projects_are_refused(database: Database) -> None:
    users.create_user(database, "u", "secret", project="p")
    tokens = Tokens(database)
    secret, _ = tokens.log_in("secret", user_name="u")
    with database.write() as connection:
        connection.execute(tables.projects.update().values(enabled=False))
    with pytest.raises(UnauthenticatedError):
        Tokens(database).check(secret)
    with database.write() as connection:
        connection.execute(tables.projects.update().values(enabled=True))
        connection.execute(tables.users.update().values(enabled=False))
    for attempt in (lambda: Tokens(database).check(secret), lambda: tokens.log_in("secret", user_name="u")):
        with pytest.raises(UnauthenticatedError):
            attempt()


def test_generated_passwords_differ_and_work(database: Database) -> None:
    one, two = users.generate_password(), users.generate_password()
    assert one != two
    assert len(one) >= 22
    users.create_user(database, "u", one, project="p")
    assert Tokens(database).log_in(one, user_name="u")
