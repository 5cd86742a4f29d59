"""Rows of evals to values and back, by system of tables: suites, runs, gates, incidents. Opens no transactions."""

from interlock.foundation.store import Queries

SQL = Queries("interlock.evals")
