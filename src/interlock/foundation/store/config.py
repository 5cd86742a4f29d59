"""Bounds of the store, its pools, its migrations and its launcher.

Reads nothing by itself; `foundation.config.load` fills it as section `store`.
"""

from dataclasses import dataclass
from typing import Final

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Section `store`."""

    connections_max: int = setting(
        80,
        "Connections of all processes of the platform together; the embedded store takes 20 more for operators.",
        minimum=8,
        maximum=10_000,
    )
    pool_wait_ms: int = setting(
        250, "Longest wait for a free connection, milliseconds; then `store_unavailable`.", minimum=1, maximum=60_000
    )
    pool_waiting_max: int = setting(
        1_000, "Callers that may wait for a connection at once.", minimum=1, maximum=100_000
    )
    connect_timeout_ms: int = setting(
        700, "Longest wait for a new connection, milliseconds.", minimum=50, maximum=60_000
    )
    pulse_interval_ms: int = setting(
        150, "Pause between two signs of life while statements run, milliseconds.", minimum=10, maximum=10_000
    )
    pulse_idle_ms: int = setting(
        1_000, "Pause between two signs of life while nothing runs, milliseconds.", minimum=10, maximum=60_000
    )
    pulse_timeout_ms: int = setting(
        700, "A store silent for so long is away; what runs is given up, milliseconds.", minimum=50, maximum=60_000
    )
    statement_timeout_app_s: int = setting(30, "Longest statement of a tenant, seconds.", minimum=1, maximum=3_600)
    statement_timeout_ops_s: int = setting(300, "Longest statement of a loop, seconds.", minimum=1, maximum=86_400)
    idle_transaction_s: int = setting(
        30, "Longest silence inside a transaction; then the server ends it, seconds.", minimum=1, maximum=3_600
    )
    retries_max: int = setting(
        3, "Repeats of a transaction after a serialization failure or deadlock.", minimum=0, maximum=10
    )
    lock_timeout_s: int = setting(5, "Longest wait of a migration for a table lock, seconds.", minimum=1, maximum=600)
    lock_tries: int = setting(10, "Tries of a migration that waits for a table lock.", minimum=1, maximum=100)
    partitions_ahead: int = setting(3, "Partitions made before they are needed.", minimum=1, maximum=60)
    start_timeout_s: int = setting(60, "Longest start of the embedded store, seconds.", minimum=1, maximum=3_600)
    stop_timeout_s: int = setting(
        30, "Wait for a fast stop before an immediate one, seconds.", minimum=1, maximum=3_600
    )
    shared_memory_retry_s: int = setting(
        20, "How long a start waits for the processes of a killed store to end, seconds.", minimum=1, maximum=600
    )
    shared_buffers_mib: int = setting(128, "`shared_buffers` of the embedded store, MiB.", minimum=16, maximum=65_536)
    wal_bytes_max_mib: int = setting(
        256, "`max_wal_size` of the embedded store, MiB; bounds recovery after a crash.", minimum=64, maximum=65_536
    )


# Of a command for which a person waits: to them a store that is only busy is not away.
UNHURRIED: Final = StoreConfig(connect_timeout_ms=60_000, pool_wait_ms=60_000, pulse_timeout_ms=60_000)
