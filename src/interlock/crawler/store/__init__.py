"""The rows of the crawler in PostgreSQL, as types.

Decides nothing: what may follow what is in `domain/`.
"""

from interlock.foundation.store import Queries

SQL = Queries("interlock.crawler")
