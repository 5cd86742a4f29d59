"""What the systems stand on: store, identity, audit, telemetry, wire and time.

Nothing in here knows a system by name; a system may use everything that is here.
"""
