"""Several processes at one SQLite file: each sees what the others wrote, and nobody loses a journal."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from breezeblock.catalog import migrate, tables
from breezeblock.catalog.database import Database

WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO projects (id, name) VALUES (?, ?)", (sys.argv[2], sys.argv[2]))
connection.commit()
connection.close()  # the last to close would remove the journal
"""


def names(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(tables.projects.c.name)).scalars())


def test_what_others_write_and_close_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "catalog.db"
    database = Database(f"sqlite:///{file}")
    migrate.upgrade(database)
    expected: set[str] = set()
    for name in ("first", "second", "third"):
        # Connections that are opened beside others must not disturb what those hold.
        with database.read() as one, database.read() as other:
            assert one.execute(sa.select(1)).scalar() == other.execute(sa.select(1)).scalar()
        journal = Path(f"{file}-wal").stat().st_ino
        subprocess.run([sys.executable, "-c", WRITE, str(file), name], check=True)
        assert Path(f"{file}-wal").stat().st_ino == journal
        expected.add(name)
        assert names(database) == expected
        with database.write() as connection:
            connection.execute(sa.insert(tables.projects).values(id=f"own-{name}", name=f"own-{name}"))
        expected.add(f"own-{name}")
        assert names(database) == expected
    database.dispose()
    with sqlite3.connect(file) as connection:
        assert {row[0] for row in connection.execute("SELECT name FROM projects")} == expected


def test_the_file_is_private_from_the_first_moment(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'catalog.db'}")
    assert list(tmp_path.iterdir()) == []  # made when it is first used, not when it is named
    migrate.upgrade(database)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    database.dispose()
