"""Rules of the crawler: pure values and functions, without I/O, clock or dice."""
