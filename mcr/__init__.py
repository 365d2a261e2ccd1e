"""
mcr relays multicast and unicast UDP between networks where routing it is impossible or wrong.

Packages, and who may import whom (checked by ``lint-imports``)::

    errors <- model <- wire <- runtime <- {supervisor, worker}
              model <- config <- supervisor
              wire <- client <- cli           config <- cli
              _native <- {worker, gen}

Processes (a package that holds a ``main.py`` is one)::

    supervisor   mcrd              root, few capabilities: sockets, children, clients
    worker       python -m mcr     nobody, none: packets
    cli          mcrctl            the caller
    gen          mcrgen            the caller

Flows, each in one direction::

    packets    wire -> ring -> parse -> look up -> outputs -> wire        (native/)
    counters   worker -> shared memory -> supervisor -> mcrctl
    rules      file | mcrctl -> model -> distribute -> share -> worker -> C table -> digest back
"""

__version__ = "0.1.0"
