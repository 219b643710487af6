"""The port of a group of processes: free, and no other run's."""

from __future__ import annotations

import socket

import pytest

from engram import ports


def test_two_runs_never_get_the_same_port(monkeypatch):
    monkeypatch.setattr(ports, "candidates", lambda: [24680, 24681])
    with ports.claimed() as first, ports.claimed() as second:
        assert {first, second} == {24680, 24681}
    with ports.claimed() as again:
        assert again == 24680


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch, family, address):
    with socket.socket(family) as server:
        try:
            server.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        server.listen()
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "candidates", lambda: [taken, 24682])
        with ports.claimed() as given:
            assert given == 24682


def test_ports_lie_outside_the_range_the_kernel_gives_away(monkeypatch):
    monkeypatch.setattr(ports, "read_bytes", lambda _: b"25000\t60999\n")
    found = ports.candidates()
    assert min(found) >= ports.LOWEST
    assert max(found) < 25_000

    monkeypatch.setattr(ports, "read_bytes", lambda _: b"1024\t65535\n")
    assert ports.candidates()
