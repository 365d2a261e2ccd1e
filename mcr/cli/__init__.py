"""mcrctl: the command line of the daemon."""
