"""The rules of evals: statistics, oracles, verdicts, the canary monitor. Pure; asks nobody and knows no clock."""
