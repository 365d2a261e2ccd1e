"""The supervisor process, `mcrd`: sockets, children, clients."""
