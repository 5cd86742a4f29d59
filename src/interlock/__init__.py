"""Interlock: one self-hostable platform around the language models that a company runs.

The map of the packages is in ARCHITECTURE.md. Importing this package does no work.
"""

__version__ = "0.1.0"
