"""Verdicts of a test's own key: the real check of tokens, signed by somebody whom the test knows."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.contracts.gates import VerifyingKey
from interlock.evals.domain.verdict import Claims, TokenVerifier, mint
from tests.gateway.worlds import CLOCK

HOUR_US = 3_600_000_000


class Published:
    """The real check of tokens, with the one key that is published."""

    def __init__(self, public_key, organization_id, key_id="vk_1"):
        self.verifier = TokenVerifier()
        self.key = VerifyingKey(key_id, organization_id, public_key, CLOCK.now_us() + HOUR_US, is_revoked=False)
        self.keys = {key_id: self.key}

    async def load(self):
        return self.keys


class Signer(Published):
    """A signing key of one organization; its public half is published."""

    def __init__(self, organization_id, key_id="vk_1"):
        self.organization_id = organization_id
        self.private = Ed25519PrivateKey.generate()
        self.public_key = self.private.public_key().public_bytes_raw()
        super().__init__(self.public_key, organization_id, key_id)

    def token(self, route, digest, max_weight=100.0, ttl_s=600.0, **fields):
        now_us = CLOCK.now_us()
        claims = {
            "key_id": self.key.key_id, "organization_id": self.organization_id, "route": route, "gate_id": "gate_1",
            "verdict_id": "vdt_1", "subject": digest, "max_weight": max_weight, "issued_at_us": now_us,
            "expires_at_us": now_us + round(ttl_s * 1e6), **fields,
        }  # fmt: skip
        return mint(Claims(**claims), self.private.sign)
