-- why: providers may speak the messages dialect
-- phase: expand

ALTER TABLE gateway_providers DROP CONSTRAINT gateway_providers_kind_check;
ALTER TABLE gateway_providers ADD CONSTRAINT gateway_providers_kind_check
    CHECK (kind IN ('openai', 'anthropic', 'pool', 'offline'));
ALTER TABLE gateway_providers DROP CONSTRAINT gateway_providers_address;
ALTER TABLE gateway_providers ADD CONSTRAINT gateway_providers_address
    CHECK ((kind IN ('openai', 'anthropic', 'offline')) = (base_url IS NOT NULL));
