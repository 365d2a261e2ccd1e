"""Documents as the daemon sends them."""

from typing import cast

from mcr.wire.documents import InterfaceDocument, RuleDocument, StatsDocument, WorkerDocument

IN = "239.1.1.1%eth0:5001"
OUT = "239.2.2.2%eth1:6000"

DEFAULTS = {"ttl": "auto", "dscp": "keep", "source": "interface", "rate": None, "path": "link"}

RULE = cast(
    "RuleDocument",
    {
        "id": "b09e44333996",
        "name": "camera-1",
        "from": IN,
        "origin": "control",
        "state": "active",
        "reason": None,
        "workers": [0, 1],
        "allow_link_local": False,
        "outputs": [
            {**DEFAULTS, "to": OUT, "state": "active", "reason": None},
            {
                **DEFAULTS,
                "to": "192.0.2.7%eth2:6000",
                "ttl": 8,
                "path": "stack",
                "state": "pending",
                "reason": "no interface eth2",
            },
        ],
    },
)
PENDING = cast(
    "RuleDocument",
    {
        **RULE,
        "name": "b",
        "state": "pending",
        "reason": "no interface eth9",
        "workers": [],
        "outputs": RULE["outputs"][:1],
    },
)
STATS = cast(
    "StatsDocument",
    {
        "consistent": True,
        "reassembly_failed": 0,
        "interfaces": [
            {
                "name": "eth0",
                "received": 12,
                "matched": 5,
                "ignored": {"no_rule": 5, "tcp": 2, "x": 0},
                "kernel_dropped": 1,
            }
        ],
        "rules": [
            {
                "id": "b09e44333996",
                "name": "camera-1",
                "from": IN,
                "state": "active",
                "reason": None,
                "matched": 5,
                "bytes": 5000,
                "loops": 0,
                "outputs": [
                    {"to": OUT, "sent": 5, "bytes": 5000, "not_sent": {}},
                    {"to": "192.0.2.7:6000", "sent": 2, "bytes": 2000, "not_sent": {"netunreach": 3}},
                ],
            }
        ],
    },
)
WORKER: WorkerDocument = {
    "worker": 0,
    "pid": 812,
    "cpu": 3,
    "state": "ready",
    "since_s": 3725.4,
    "restarts": 0,
    "rules": 2,
    "expected_digest": "12345678901234e5",
    "installed_digest": None,
    "generation": 4,
    "resident_bytes": 30 << 20,
    "ring_bytes": 4 << 20,
    "coalesce_us": 150,
    "realtime": True,
    "cpu_seconds": 1.5,
}
INTERFACE: InterfaceDocument = {
    "name": "eth0",
    "index": 2,
    "mtu": 1500,
    "state": "up",
    "workers": [0, 1],
    "steering": "hash",
    "reason": "1 receive queue(s) cannot feed 2 worker(s) evenly",
    "receive_queues": 1,
    "rules": 2,
    "memberships": ["239.1.1.1"],
    "ring": {"frames": 2048, "frame_bytes": 2048, "bytes": 4 << 20},
    "bypass": {"on": True, "reason": ""},
}
