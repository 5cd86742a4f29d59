"""The kit of the control process: routes with a policy, envelope, lists, idempotency, OpenAPI.

Knows no system; a system hands over a list of `Route`.
"""
