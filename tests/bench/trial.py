"""One trial: traffic through one relay, and what it cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from mcr.gen.quantity import parse_quantity
from tests.bench.cpu import NS_PER_S, Reading, Usage
from tests.bench.job import Job
from tests.bench.relays import RELAYS, TTL, Running, Settings
from tests.bench.stage import Stage
from tests.support.lab import Host
from tests.support.laws import softnet_dropped
from tests.support.traffic import Sender, receiving, sending
from tests.support.wait import wait_for

WARM_UP_S = 0.5
SLACK_S = 0.5  # the sender goes on a little longer than it is watched
QUIET_S = 0.3
DRAIN_S = 20.0
LONGEST_RECEIVE_S = 120

Sample = dict[str, float]
