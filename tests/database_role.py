"""Real roles of a real server: an owner who is no superuser, a database of his, and the roles that the command makes."""

import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from django.core.management import call_command
from django.db import connections
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from taskpulse import database_roles

OWNER = "owner"


@dataclass
class OwnedDatabase:
    """`names`: the roles by kind, `owner` among them. `connect` signs in as one, as Django's own connection does."""

    server: str
    name: str
    names: dict[str, str]

    @classmethod
    def make(cls, server: str, settings) -> "OwnedDatabase":
        token = uuid.uuid4().hex[:10]
        found = cls(server, f"taskpulse_roles_{token}", {kind: f"tp_{token}_{kind}" for kind in (OWNER, *database_roles.ROLES)})
        for kind in database_roles.ROLES:
            setattr(settings, f"{kind.upper()}_ROLE", found.names[kind])
            setattr(settings, f"{kind.upper()}_ROLE_PASSWORD", f"pass word of {kind} {token}")
        found.run("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'owner'", found.names[OWNER])
        found.run("CREATE DATABASE {} OWNER {}", found.name, found.names[OWNER])
        with found.django_as(OWNER):
            call_command("migrate", verbosity=0)
            call_command("database_roles", verbosity=0)
        return found

    def drop(self) -> None:
        self.run("DROP DATABASE {} WITH (FORCE)", self.name)
        for kind in (*database_roles.ROLES, OWNER):
            self.run("DROP ROLE IF EXISTS {}", self.names[kind])

    def run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as session:
            session.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def url(self, kind: str | None) -> str:
        """As the server's own superuser for None."""
        parts = urlsplit(self.server)
        if kind is not None:
            password = "owner" if kind == OWNER else f"pass word of {kind} {self.name.rpartition('_')[2]}"
            place = parts.netloc.rpartition("@")[2]
            parts = parts._replace(netloc=f"{self.names[kind]}:{quote(password)}@{place}")
        return urlunsplit(parts._replace(path=f"/{self.name}"))

    def connect(self, kind: str | None, **options) -> psycopg.Connection:
        return psycopg.connect(self.url(kind), **options)

    @contextmanager
    def django_as(self, kind: str):
        """Django's default connection signs in as that role."""
        known = connections["default"].settings_dict
        before = {name: known[name] for name in ("NAME", "USER", "PASSWORD")}
        address = conninfo_to_dict(self.url(kind))
        connections.close_all()
        known |= {"NAME": self.name, "USER": address["user"], "PASSWORD": address["password"]}
        try:
            yield
        finally:
            connections.close_all()
            known |= before


@contextmanager
def unchanged_role_settings():
    """Django's settings, whose roles may be set for as long as the block lasts."""
    from django.conf import settings

    names = [f"{kind.upper()}_ROLE{suffix}" for kind in database_roles.ROLES for suffix in ("", "_PASSWORD")]
    before = {name: getattr(settings, name) for name in names}
    yield settings
    for name, value in before.items():
        setattr(settings, name, value)
