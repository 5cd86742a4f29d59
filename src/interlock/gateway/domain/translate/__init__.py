"""Three dialects of one conversation: each has one decoder and one encoder, and all meet in neutral values.

Reads and writes bytes that others carry; opens nothing.
"""
