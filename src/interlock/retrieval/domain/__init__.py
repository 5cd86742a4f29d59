"""Rules of retrieval: access, passages, words, plans, ranks. No I/O, no clock, no dice."""
