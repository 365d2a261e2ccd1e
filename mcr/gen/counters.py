"""Counters of the kernel that explain a loss: whose fault it was."""

from pathlib import Path


def interface_drops(interface: str | None) -> int | None:
    """Give the interface's count of datagrams dropped on the way out; None where it cannot be read."""
    if interface is None:
        return None
    try:
        return int(Path(f"/sys/class/net/{interface}/statistics/tx_dropped").read_text(encoding="ascii"))
    except OSError:
        return None


def checksum_errors() -> int:
    """Give how many UDP datagrams of this network namespace had a wrong checksum, over IPv4 and IPv6."""
    return _checksum_errors_v4() + _checksum_errors_v6()


def _checksum_errors_v4() -> int:
    lines = [line.split() for line in Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()]
    names, values = (line for line in lines if line[0] == "Udp:")
    return int(values[names.index("InCsumErrors")])


def _checksum_errors_v6() -> int:
    path = Path("/proc/net/snmp6")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == "Udp6InCsumErrors")
