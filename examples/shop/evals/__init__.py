"""The suites that the shop holds its assistant to; `interlock evals` and the tour use them."""
