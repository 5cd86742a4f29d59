"""Rules of the agents: states, the loop, grants, budgets, mutations. Performs nothing."""
