"""Bounds of identity: keys, sessions, look-ups, each with its unit.

Holds no secret; the pepper is a file of the data directory.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """Section `identity`."""

    keys_max: int = setting(100_000, "keys that a process holds in memory", minimum=100, maximum=10_000_000)
    keys_page: int = setting(
        1_000, "keys that a process reads at a time, between which it serves requests", minimum=10, maximum=100_000
    )
    revoked_kept_s: float = setting(
        604_800.0, "seconds for which a revoked key stays in memory", minimum=0.0, maximum=34_560_000.0
    )
    misses_per_s: int = setting(
        100, "unknown keys a second that a process asks the store about", minimum=1, maximum=10_000
    )
    miss_cache_s: float = setting(5.0, "seconds for which an unknown key stays unknown", minimum=0.0, maximum=60.0)
    miss_cache_max: int = setting(10_000, "unknown keys that a process remembers", minimum=100, maximum=1_000_000)
    outside_max: int = setting(
        1_000, "uses of keys outside their networks that wait to be audited", minimum=1, maximum=100_000
    )
    session_idle_s: float = setting(
        28_800.0, "seconds without use after which a session ends", minimum=60.0, maximum=604_800.0
    )
    session_max_s: float = setting(86_400.0, "seconds after which a session ends", minimum=60.0, maximum=2_592_000.0)
    session_touch_s: float = setting(
        60.0, "seconds between writes of when a session was last used", minimum=1.0, maximum=3_600.0
    )
    login_token_s: float = setting(3_600.0, "seconds for which a one-time link works", minimum=10.0, maximum=86_400.0)
    failed_logins_max: int = setting(
        10, "failed sign-ins in ten minutes of an address or of a key", minimum=1, maximum=1_000
    )
    group_edges_max: int = setting(1_000_000, "live group edges of an organization", minimum=1, maximum=100_000_000)
    lent_kept_s: float = setting(
        86_400.0, "seconds for which a lent key is kept after its end", minimum=0.0, maximum=34_560_000.0
    )
    use_interval_s: float = setting(
        60.0, "seconds between writes of when keys were last used", minimum=1.0, maximum=3_600.0
    )
