"""The five roles of the store, and what an operator runs to have them in a database of their own.

Opens no transaction for anybody; `launcher.py` and `migrate` call this before the first file is applied.
"""

from typing import Final

import asyncpg

from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.store.pool import Connection
from interlock.foundation.store.urls import StoreUrls, with_role

OWNER: Final = "interlock_owner"
APP: Final = "interlock_app"
OPS: Final = "interlock_ops"
READ: Final = "interlock_read"
SUPERUSER: Final = "interlock_superuser"
DATABASE: Final = "interlock"
ALL: Final = (OWNER, APP, OPS, READ)
HAS_VECTOR: Final = "SELECT count(*) > 0 FROM pg_extension WHERE extname = 'vector'"
ADD_VECTOR: Final = "CREATE EXTENSION IF NOT EXISTS vector"


def role_statements(member: str | None = None) -> list[str]:
    """Return the statements that make the roles; `member` is a login role that may then act as each of them.

    The roles are made without a login: the embedded store gives them one with a password, an external store keeps
    the one login of `DATABASE_URL`, which does SET ROLE.
    """
    made = [
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN "
        f"CREATE ROLE {role} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$"
        for role in ALL
    ]
    # A login that may use the roles is not asked for the right to grant them.
    granted = [
        f"DO $$ BEGIN IF NOT pg_has_role({_literal(each)}, '{role}', 'MEMBER') THEN "
        f"GRANT {role} TO {quoted(each)}; END IF; END $$"
        for each in ([member] if member else [])
        for role in ALL
    ]
    return [*made, *granted, f"GRANT CREATE, USAGE ON SCHEMA public TO {OWNER}"]


def login_statements(passwords: dict[str, str]) -> list[str]:
    """Return the statements that let the roles of the embedded store log in. Passwords are url-safe text."""
    return [f"ALTER ROLE {role} LOGIN PASSWORD '{passwords[role]}'" for role in ALL]


async def external_urls(database_url: str) -> StoreUrls:
    """Make the roles in an external database and return its URLs, each with SET ROLE.

    The login role needs CREATEROLE, or the roles must exist (`interlock migrate --print-roles` prints them); the same
    goes for the extension `vector`. Raises `BrokenWorldError` `store_roles_missing` or `vector_missing`, and the
    driver's own errors where the store is away.
    """
    connection = await asyncpg.connect(database_url)
    try:
        await _make_roles(connection)
        await _require_vector(connection)
    finally:
        await connection.close()
    return StoreUrls(
        owner=with_role(database_url, OWNER),
        app=with_role(database_url, APP),
        ops=with_role(database_url, OPS),
        read=with_role(database_url, READ),
    )


async def _make_roles(connection: Connection) -> None:
    if await _are_usable(connection):
        return
    login = await connection.fetchval("SELECT current_user")
    cause: Exception | None = None
    try:
        async with connection.transaction():
            for statement in role_statements(login):
                await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        cause = error
    # A GRANT without the right to it is only a warning, so the outcome is asked for and not assumed.
    if cause or not await _are_usable(connection):
        raise BrokenWorldError(
            "store_roles_missing",
            f"the login {login} of DATABASE_URL may not create the roles of the platform",
            "run the statements of `interlock migrate --print-roles` as an administrator of the database",
        ) from cause


async def _require_vector(connection: Connection) -> None:
    if await connection.fetchval(HAS_VECTOR):
        return
    try:
        await connection.execute(ADD_VECTOR)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError) as error:
        raise vector_missing() from error


def vector_missing() -> BrokenWorldError:
    """Return what is said of a database without pgvector."""
    return BrokenWorldError(
        "vector_missing",
        "the database has no extension vector",
        "install pgvector for this PostgreSQL and run `CREATE EXTENSION vector` there as an administrator",
    )


async def _are_usable(connection: Connection) -> bool:
    usable = await connection.fetchval(
        "SELECT count(*) FROM pg_roles WHERE rolname = ANY($1::name[]) AND pg_has_role(oid, 'MEMBER')", list(ALL)
    )
    if usable < len(ALL):
        return False
    return bool(await connection.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", OWNER))


def _literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def quoted(name: str) -> str:
    """Return an SQL identifier for any text."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
