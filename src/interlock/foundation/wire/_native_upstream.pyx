# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled form of what is hottest here; the form in Python beside it says the same. Decides nothing of its own."""
