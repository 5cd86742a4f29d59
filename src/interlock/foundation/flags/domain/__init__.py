"""The rules of flags and kill switches: what is on for whom. Pure."""
