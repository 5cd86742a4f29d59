"""Where agents touch the world: the sandbox, git, files, offline models. Decides nothing."""
