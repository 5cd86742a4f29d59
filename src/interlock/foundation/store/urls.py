"""The addresses of the store, one for each role that the platform connects as.

Checks nothing; a role that may too much is refused when a `Store` opens.
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """Connection strings; they hold passwords, so none of them is ever logged or printed by `repr`.

    owner: `interlock_owner`, migrates and makes partitions. app: `interlock_app`, one tenant at a time.
    ops: `interlock_ops`, the loops over all tenants. read: `interlock_read`, support SQL.
    """

    owner: str = field(repr=False)
    app: str = field(repr=False)
    ops: str = field(repr=False)
    read: str | None = field(default=None, repr=False)
    superuser: str | None = field(default=None, repr=False)


def socket_url(folder: str, user: str, password: str, database: str) -> str:
    """Return the URL of a role over a unix socket; any character may occur in `folder`."""
    query = urlencode({"host": folder, "port": "5432"}, quote_via=quote)
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@/{quote(database, safe='')}?{query}"


def with_role(url: str, role: str) -> str:
    """Return the URL with `SET ROLE` done by the server as part of the connection's start."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "role"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("role", role)], quote_via=quote)))
