"""Who calls and what they may: organizations, people, programs, nested groups, keys, sessions, policy.

Entry points: `Authenticator` over a `KeyDirectory` (every request), `authorize` (the only builder of a `Scope` for a
caller), `IdentityService`, `KeyService`, `LentKeys` (use cases), `Sessions` (console), `bootstrap`, `routes`.
Invariants: a key has the lesser of its scopes and its owner's roles; what a caller may not see does not exist.
"""

from interlock.foundation.identity.authenticate import Authenticated, Authenticator, Refused
from interlock.foundation.identity.bootstrap import bootstrap
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import KeyDirectory, KeyRecord
from interlock.foundation.identity.domain.bounds import KeyBounds
from interlock.foundation.identity.domain.keys import TASK
from interlock.foundation.identity.domain.names import email_of, name_of
from interlock.foundation.identity.domain.policy import ALL_SCOPES, Denied, authorize
from interlock.foundation.identity.effective import explain
from interlock.foundation.identity.keys import KeyService, KeyWanted, LastUsed
from interlock.foundation.identity.lent import LentKeys
from interlock.foundation.identity.people import GroupSeen, Listed, MemberSeen, People, PrincipalSeen, RoleSeen
from interlock.foundation.identity.routes import routes
from interlock.foundation.identity.service import IdentityService, person_behind
from interlock.foundation.identity.sessions import Sessions

__all__ = [
    "ALL_SCOPES", "TASK", "Authenticated", "Authenticator", "Denied", "GroupSeen", "IdentityConfig", "IdentityService",
    "KeyBounds", "KeyDirectory", "KeyRecord", "KeyService", "KeyWanted", "LastUsed", "LentKeys", "Listed", "MemberSeen",
    "People", "PrincipalSeen", "Refused", "RoleSeen", "Sessions", "authorize", "bootstrap", "email_of", "explain",
    "name_of", "person_behind", "routes",
]  # fmt: skip
