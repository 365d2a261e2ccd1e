"""The control socket: clients of any kind, none of which may delay another."""
