"""What systems say to each other: frozen types and one Protocol a file.

Imports the standard library and `Scope`, `Principal` and ids of foundation, nothing else.
"""
