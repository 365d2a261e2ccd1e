from mcr.supervisor.reassembly import ReassemblyFailures, parse_failures, read_snmp

HEAD = "Ip: Forwarding DefaultTTL ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs"
ICMP = "Icmp: InMsgs InErrors\nIcmp: 7 8\nIpExt: ReasmFails\nIpExt: 9\n"


def snmp(failed: int) -> str:
    return f"{HEAD}\nIp: 1 64 2 10 3 {failed} 4\n{ICMP}"


def test_failures_are_found_by_their_name() -> None:
    assert parse_failures(snmp(5)) == 5


def test_the_kernel_says_how_many_failed() -> None:
    assert parse_failures(read_snmp()) >= 0


def test_only_what_failed_since_the_start_counts() -> None:
    readings = iter([snmp(40), snmp(40), snmp(42)])
    failures = ReassemblyFailures(lambda: next(readings))

    assert [failures.count(), failures.count()] == [0, 2]
