"""What a task may name: models that its caller may use, secrets that a worker opens for it.

Holds no logic of tasks; the services ask.
"""

from interlock.agents.store.rows import Task
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import KeyBounds, LentKeys
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.scope import Scope
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretsConfig, SecretService
from interlock.foundation.store import Store
from interlock.gateway.store.routes import find_route
from interlock.wiring.ground import Ground


class KnownModels:
    """Tells which models a caller may name."""

    def __init__(self, store: Store, keys: LentKeys) -> None:
        self._store = store
        self._keys = keys

    async def bounds_for(self, scope: Scope, model: str) -> KeyBounds | None:
        """Return what the caller's key may ask for; None where it may not ask for this model, or there is none."""
        bounds = await self._keys.bounds_of(scope)
        return bounds if bounds.allows(model) and await self._is_known(scope, model) else None

    async def _is_known(self, scope: Scope, model: str) -> bool:
        async with self._store.transaction(scope) as tx:
            if await find_route(tx, scope.organization_id, model, None) is not None:
                return True
        async with self._store.ops("a model of the platform") as tx:
            return await find_route(tx, SYSTEM_ORGANIZATION_ID, model, None) is not None


class TaskVault:
    """Opens the secrets of tasks where the private half is."""

    def __init__(self, store: Store, secrets: SecretService) -> None:
        self._store = store
        self._secrets = secrets

    async def open(self, task: Task) -> dict[str, str]:
        """Return the values by name; a name that the vault lost is left out."""
        found: dict[str, str] = {}
        async with self._store.transaction(task.scope()) as tx:
            for each in task.row["secret_names"]:
                name, _, envelope = each.partition("=")
                value = await self._secrets.open(tx, envelope)
                if value is not None:
                    found[name] = value.decode("utf-8", "replace")
        return found

    async def forget(self, task: Task) -> None:
        """Remove what came with the task; names of the vault stay."""
        async with self._store.transaction(task.scope()) as tx:
            for each in task.row["secret_names"]:
                name, _, envelope = each.partition("=")
                if envelope != name:
                    try:
                        await self._secrets.remove(tx, envelope)
                    except InterlockError:
                        continue


def task_secrets(ground: Ground, *, is_opener: bool) -> SecretService:
    """Return the service of secrets; only one that is to open them gets the private half."""
    file = MasterKeyFile(ground.directory.master_key)
    box = SecretBox(ground.dice, file.read_public, file.read if is_opener else None)
    return SecretService(box, ground.audit(), ground.ids, ground.redactor, ground.config.section(SecretsConfig))
