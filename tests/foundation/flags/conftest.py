"""The world of identity serves flags as well."""

from tests.foundation.identity.conftest import rival, shop, world

__all__ = ["rival", "shop", "world"]
