"""Evals, incidents, gates and rollouts: no weight rises without live signed evidence for what is served.

Never takes "could not tell" for "fine".
"""
