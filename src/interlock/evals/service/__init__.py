"""Use cases of evals: what a caller or a worker asks for, over the rules of the domain."""
