"""Who is let in: the ZAP decision over files, pushed keys and expiry."""

import pytest
import zmq

from nokv.router import z85
from nokv.router.auth import CLIENT_DOMAIN, PEER_DOMAIN, Allowed, Decision, Gate

OWN, CLIENT, PEER = (zmq.curve_keypair()[0] for _ in range(3))
NOW_S = 1_800_000_000


def ask(gate: Gate, public: bytes, domain: bytes, now_s: int = NOW_S) -> Decision:
    request = [b"1.0", b"7", domain, b"10.0.0.9", b"", b"CURVE", z85.decode(public)]
    return gate.decide(request, now_s)


@pytest.fixture
def gate() -> Gate:
    made = Gate(OWN)
    made.set_files([Allowed(z85.decode(CLIENT))], [Allowed(z85.decode(PEER))])
    return made


def test_each_plane_has_its_own_list(gate: Gate) -> None:
    allowed = {(CLIENT, CLIENT_DOMAIN), (PEER, PEER_DOMAIN), (OWN, CLIENT_DOMAIN)}
    for public in (OWN, CLIENT, PEER, zmq.curve_keypair()[0]):
        for domain in (CLIENT_DOMAIN, PEER_DOMAIN, b"", b"other"):
            decision = ask(gate, public, domain)
            if (public, domain) in allowed:
                assert decision.reply == (b"1.0", b"7", b"200", b"OK", public, b"") and not decision.refusal
            else:
                status = b"300" if domain == PEER_DOMAIN else b"400"
                assert decision.reply[:3] == (b"1.0", b"7", status) and "not allowed" in decision.refusal
            assert decision.source == "10.0.0.9"


def test_without_lists_only_the_node_itself_is_a_client() -> None:
    gate = Gate(OWN)
    assert not ask(gate, OWN, CLIENT_DOMAIN).refusal
    assert ask(gate, CLIENT, CLIENT_DOMAIN).refusal and ask(gate, OWN, PEER_DOMAIN).refusal


def test_pushed_keys_add_to_the_files_and_go_away_again(gate: Gate) -> None:
    extra = zmq.curve_keypair()[0]
    assert gate.set_pushed([extra.decode(), "no key", "é" * 40], []) == 2
    assert not ask(gate, extra, CLIENT_DOMAIN).refusal and not ask(gate, CLIENT, CLIENT_DOMAIN).refusal
    assert gate.set_pushed([], []) == 0
    assert ask(gate, extra, CLIENT_DOMAIN).refusal


def test_a_revoked_key_is_refused_at_its_next_connection(gate: Gate) -> None:
    gate.set_files([], [])
    assert ask(gate, CLIENT, CLIENT_DOMAIN).refusal and ask(gate, PEER, PEER_DOMAIN).refusal


def test_a_key_expires_after_its_last_second() -> None:
    gate = Gate(OWN)
    gate.set_files([Allowed(z85.decode(CLIENT), until_s=NOW_S)], [])
    assert not ask(gate, CLIENT, CLIENT_DOMAIN, NOW_S).refusal
    assert ask(gate, CLIENT, CLIENT_DOMAIN, NOW_S + 1).refusal


@pytest.mark.parametrize(
    "request_parts",
    [
        [],
        [b"1.0"],
        [b"2.0", b"7", b"client", b"a", b"", b"CURVE", z85.decode(OWN)],
        [b"1.0", b"7", b"client", b"a", b"", b"NULL"],
        [b"1.0", b"7", b"client", b"a", b"", b"PLAIN", b"user", b"password"],
        [b"1.0", b"7", b"client", b"a", b"", b"CURVE"],
        [b"1.0", b"7", b"client", b"\xff", b"", b"CURVE", z85.decode(OWN), b"more"],
    ],
)
def test_anything_else_is_refused(gate: Gate, request_parts: list[bytes]) -> None:
    decision = gate.decide(request_parts, NOW_S)
    assert decision.refusal and decision.reply[2] == b"400"
    assert decision.reply[1] == (b"7" if len(request_parts) > 1 else b"")


def test_a_node_without_keys_takes_plain_connections_only() -> None:
    gate = Gate(None)
    for domain in (CLIENT_DOMAIN, PEER_DOMAIN):
        decision = gate.decide([b"1.0", b"7", domain, b"10.0.0.9", b"", b"NULL"], NOW_S)
        assert decision.reply[2] == b"200" and not decision.refusal
    assert ask(gate, CLIENT, CLIENT_DOMAIN).refusal
