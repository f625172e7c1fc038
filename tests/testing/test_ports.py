"""Leased ports: free, below the ephemeral range, and nobody else's while the lease lives."""

import socket

import pytest

from nokv.testing.ports import PORT_MAX, PORT_MIN, PortLease, is_free


def test_leases_never_share_a_port() -> None:
    leases = [PortLease(20) for _ in range(5)]
    ports = [port for lease in leases for port in lease.ports]
    assert len(set(ports)) == 100
    assert all(PORT_MIN <= port < PORT_MAX for port in ports)
    assert all(is_free(port) for port in ports)
    for lease in leases:
        lease.close()
        lease.close()


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        assert not is_free(held.getsockname()[1])


def test_too_many_ports_are_refused_and_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nokv.testing.ports.is_free", lambda _port: False)
    with pytest.raises(OSError, match="cannot find 2 free ports"):
        PortLease(2)
