"""The PostgreSQL that the other tests are given."""

import psycopg
import pytest
import sqlalchemy as sa

from postgres_server import PostgresServer


@pytest.mark.postgres
def test_each_test_has_a_database_of_its_own(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as one, postgres_server.database() as other:
        for url in (one, other):
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                connection.execute(sa.text("CREATE TABLE t (n int)"))
                assert connection.execute(sa.text("SELECT count(*) FROM t")).scalar_one() == 0
            # Not disposed of: a test that fails leaves connections behind as well.
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(one.replace("+psycopg", ""))


@pytest.mark.postgres
def test_the_server_is_not_reached_from_elsewhere(postgres_url: str) -> None:
    with sa.create_engine(postgres_url).connect() as connection:
        assert connection.execute(sa.text("SHOW listen_addresses")).scalar_one() == "127.0.0.1"
