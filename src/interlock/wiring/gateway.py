"""What the gateway gives to the other systems of one process: how they call models.

Holds no logic; the edge itself is put together in `edge.py`.
"""

from interlock.foundation.identity import IdentityConfig, LentKeys
from interlock.foundation.store import Store
from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway import GatewayModelClient, InferenceConfig
from interlock.wiring.ground import Ground


def lent_keys(ground: Ground, store: Store) -> LentKeys:
    """Return what lends keys of kind `il_task_`."""
    config = ground.config.section(IdentityConfig)
    return LentKeys(store, ground.audit(), ground.clock, ground.dice, ground.ids, ground.pepper, config=config)


def model_client(ground: Ground, store: Store) -> GatewayModelClient:
    """Return the front door from inside: that of the setting, else the one that the data directory names."""
    config = ground.config.section(InferenceConfig)
    file = ground.directory.url_file

    def base_url() -> str | None:
        if config.url:
            return config.url
        try:
            return file.read_text(encoding="ascii").strip() or None
        except OSError:
            return None

    client = Client(ground.config.section(ClientLimits), ground.clock)
    return GatewayModelClient(lent_keys(ground, store), client, base_url, ground.clock, config)
