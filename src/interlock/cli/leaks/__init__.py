"""The fuzz gate that ships: a random world through the public API, judged by an oracle of its own.

Imports nothing of retrieval: what it shared with the code under test could not find a fault of it.
"""
