-- why: what was to be kept until a moment is found when that moment has come
-- phase: expand
CREATE INDEX retrieval_documents_retained ON retrieval_documents (organization_id, retain_until_us)
  WHERE retain_until_us IS NOT NULL AND state IN ('live', 'quarantined');
