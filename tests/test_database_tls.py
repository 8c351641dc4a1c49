"""TLS to PostgreSQL as the settings say, against a real end of a connection: PgBouncer's, since the embedded server has none."""

import psycopg
import pytest
from django.db.backends.postgresql.base import DatabaseWrapper

from taskpulse import database
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment
from tests import pgbouncer
from tests.certificates import make_authority, sign
from tests.wrong_settings import wrong


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority and what it signed for the server and a client; and another authority, which nobody trusts."""
    directory = tmp_path_factory.mktemp("certificates")
    make_authority(directory, "root")
    make_authority(directory, "other")
    sign(directory, "server", "localhost")
    sign(directory, "client", "postgres")
    return directory


@pytest.fixture
def address(committed_db, certificates, tmp_path_factory):
    """Through a PgBouncer that takes nobody without TLS and a certificate."""
    directory = tmp_path_factory.mktemp("pgbouncer")
    for name in ("root.pem", "server.pem", "server.key"):
        (directory / name).write_bytes((certificates / name).read_bytes())
    tls = (
        f"client_tls_sslmode = verify-ca\nclient_tls_ca_file = {directory}/root.pem\n"
        f"client_tls_cert_file = {directory}/server.pem\nclient_tls_key_file = {directory}/server.key"
    )
    with pgbouncer.in_front_of(committed_db, directory, tls) as url:
        # The name in the server's certificate; an address is no name.
        yield url.replace("127.0.0.1", "localhost")


@pytest.fixture
def connect(address, certificates, tmp_path):
    def connect(**settings: str) -> psycopg.Connection:
        ours = {"DB_SSLCERT": str(certificates / "client.pem"), "DB_SSLKEY": str(certificates / "client.key")}
        variables = {"SECRET_KEY": "x", "DATABASE_URL": address, "TASKPULSE_POOLER": "transaction", **ours, **settings}
        env = Environment(tmp_path, DECLARED, variables)
        configuration = database.configuration(env)
        assert wrong(env, complete=True) == []
        wrapper = DatabaseWrapper({"TIME_ZONE": None, "AUTOCOMMIT": True, **configuration})
        return psycopg.connect(**wrapper.get_connection_params())

    return connect


def test_a_server_that_proves_its_name_is_spoken_to(connect, certificates):
    with connect(DB_SSLMODE="verify-full", DB_SSLROOTCERT=str(certificates / "root.pem")) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"DB_SSLMODE": "verify-full", "DB_SSLROOTCERT": "other.pem"}, "certificate verify failed"),
        ({"DB_SSLMODE": "disable"}, "SSL required"),
        ({"DB_SSLMODE": "require", "DB_SSLCERT": "", "DB_SSLKEY": ""}, "handshake|certificate|closed the connection"),
    ],
)
def test_whoever_proves_nothing_is_not(connect, certificates, settings, said):
    files = {name: str(certificates / value) for name, value in settings.items() if value.endswith(".pem")}
    with pytest.raises(psycopg.OperationalError, match=said):
        connect(**settings | files)
