"""Grants for self-hosted engines, and the embedded engine itself.

Entry points: `FrontService` (grants), `SchedulerServer` (the same over a socket), `EngineServer` (the model).
Invariants: a queue is bounded in time and in seats; a slot is held by a live grant or free; every request that
arrives ends with exactly one outcome.
"""
