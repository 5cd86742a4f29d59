"""Pure rules of the scheduler: time comes in as an argument, nothing here does I/O."""
