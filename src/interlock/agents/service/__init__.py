"""Use cases of tasks: submit, control, and the legs that do the work."""
