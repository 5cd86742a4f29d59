-- why: what a search may see is a condition of its index; an index without the slot must not look cheaper to the planner
-- phase: contract
DROP INDEX retrieval_chunk_codes_chunk;
-- Always true, and known to be so only by the statements that name it: those of writers.
DROP INDEX retrieval_postings_chunk;
CREATE INDEX retrieval_postings_chunk ON retrieval_postings (organization_id, chunk_id) WHERE chunk_id > 0;
