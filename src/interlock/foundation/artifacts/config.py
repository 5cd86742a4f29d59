"""Where large bodies lie, and how large one may be.

Reads nothing by itself; `foundation.config.load` fills it as section `artifacts`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class ArtifactsConfig:
    """Section `artifacts`."""

    url: str = setting("", "Bucket for large bodies (`s3://`, `gs://`, `az://`); empty: the folder DIR/artifacts.")
    object_bytes_max: int = setting(256 << 20, "Largest single object, bytes.", minimum=1 << 16, maximum=1 << 34)
