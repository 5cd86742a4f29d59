"""Use cases of crawls: each orders its steps and opens its transactions."""
