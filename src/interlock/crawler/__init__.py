"""A polite, durable crawler that feeds retrieval: the host queues, not the URL.

Dials nothing inside a host's announced window, and fetches nothing that the index has no room for.
"""
