"""Large bodies outside the database: a folder by default, a bucket by URL.

Knows no tenant: a caller puts the organization first in every key. Holds no index; rows name what is here.
"""

from interlock.foundation.artifacts.config import ArtifactsConfig
from interlock.foundation.artifacts.store import ArtifactStore, key_of

__all__ = ["ArtifactStore", "ArtifactsConfig", "key_of"]
