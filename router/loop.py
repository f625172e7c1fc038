"""The router's turn: poll, drain a bounded number of messages from each socket, dispatch, flush.

Why: everything that touches a socket or a clock is here, so that the decisions can be run without either.
Invariants: no send and no receive blocks; a turn takes at most `messages_per_turn_max` messages from a socket and
starts no message after `frames_per_turn_max` frames; all frames for one receiver leave as one message; replies are
drained before requests, so that a flood of requests does not starve them.
Not here: any decision about a message (dispatch.py) or a key (auth.py).
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from nokv.config import NodeConfig
from nokv.proto.control import Routing
from nokv.router.auth import Gate
from nokv.router.curve import CLIENTS_ALLOW, PEERS_ALLOW, KeyFileError, allow_stamp, read_allow_file
from nokv.router.dispatch import Dispatcher
from nokv.router.queues import Batch
from nokv.router.refusals import RefusalLog
from nokv.router.sockets import Socket, Sockets

log = logging.getLogger("nokv.router")

NOBLOCK: Final = int(zmq.NOBLOCK)
MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

EVENTS_PER_TURN_MAX: Final = 1024
"""Connection events taken from a plane in one turn."""

_CONNECTION_FAULTS: Final[dict[int, str]] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "no encryption, or another mechanism than CURVE",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "keys do not fit: it does not know our public key",
}
"""Handshake faults that are about keys; libzmq settles them without asking the ZAP handler."""


class Loop:
    """Runs one router's sockets until told to stop."""

    def __init__(self, config: NodeConfig, sockets: Sockets, dispatcher: Dispatcher, gate: Gate) -> None:
        """Not yet running. The allow files have been read."""
        self._limits: Final = config.router
        self._curve_dir: Final = config.curve.dir
        self._sockets: Final = sockets
        self._dispatcher: Final = dispatcher
        self._gate: Final = gate
        self._refusals: Final = RefusalLog(config.router.auth_log_ms)
        self._wake_fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller: Final = zmq.Poller()

        self._stopping = False
        self._next_report_ms = 0
        self._connections = 0
        self._allow_stamp: tuple[tuple[int, int, int], ...] = ()
        self._pushed_keys: Routing | None = None

        # Replies first, requests last.
        self._handlers: Final[dict[Socket, Callable[[int], None]]] = {
            sockets.zap: self._drain_zap,
            sockets.client_events: self._drain_client_events,
            sockets.peer_events: self._drain_peer_events,
            sockets.link: self._drain_link,
            sockets.peer: self._drain_peer,
            sockets.client: self._drain_client,
        }
        for socket in self._handlers:
            self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._wake_fd, zmq.POLLIN)
        self._read_allow_files()

    def stop(self) -> None:
        """End after the current turn. Safe in a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)

    def run(self) -> None:
        """Turn until stopped."""
        while not self._stopping:
            now_ms = _now_ms()
            if now_ms >= self._next_report_ms:
                self._each_second(now_ms)
            self.turn(self._dispatcher.wait_ms(now_ms, self._next_report_ms - now_ms))

    def turn(self, timeout_ms: int) -> None:
        """Wait for messages at most `timeout_ms`, and do one round of everything."""
        ready = self._poller.poll(timeout_ms)
        now_ms = _now_ms()
        if ready:
            readable = {source for source, _events in ready}
            for socket, drain in self._handlers.items():
                if socket in readable:
                    drain(now_ms)
        self._flush_links(now_ms)
        self._flush_replies(now_ms)

    # ---- draining ---------------------------------------------------------------------------------------------------

    def _drain_client(self, _now_ms: int) -> None:
        recv, dispatcher = self._sockets.client.recv, self._dispatcher
        counters, from_client = dispatcher.counters, dispatcher.from_client
        frames_end = counters.client_frames + self._limits.frames_per_turn_max
        for _ in range(self._limits.messages_per_turn_max):
            try:
                identity = recv(NOBLOCK)
            except zmq.Again:
                return
            part = recv(NOBLOCK, copy=False)
            if part.more:
                _skip(recv, part)
                dispatcher.from_client_in_parts(identity)
            else:
                from_client(identity, part.bytes)
            if counters.client_frames >= frames_end:
                return

    def _drain_peer(self, now_ms: int) -> None:
        recv, dispatcher = self._sockets.peer.recv, self._dispatcher
        counters = dispatcher.counters
        frames_end = counters.peer_frames + self._limits.frames_per_turn_max
        for _ in range(self._limits.messages_per_turn_max):
            try:
                recv(NOBLOCK)  # the routing id: nothing is ever answered
            except zmq.Again:
                return
            part = recv(NOBLOCK, copy=False)
            source = part
            if part.more:
                _skip(recv, part)
                refusal = dispatcher.from_peer(b"")
            else:
                refusal = dispatcher.from_peer(part.bytes)
            if refusal:
                self._log_refusal("peer plane", _address_of(source), refusal, now_ms)
            if counters.peer_frames >= frames_end:
                return

    def _drain_link(self, _now_ms: int) -> None:
        recv, from_link = self._sockets.link.recv, self._dispatcher.from_link
        for _ in range(self._limits.messages_per_turn_max):
            try:
                part = recv(NOBLOCK, copy=False)
            except zmq.Again:
                return
            parts = [part.bytes]
            while part.more:
                part = recv(NOBLOCK, copy=False)
                parts.append(part.bytes)
            from_link(parts)

    def _drain_zap(self, now_ms: int) -> None:
        zap, gate = self._sockets.zap, self._gate
        now_s = int(time.time())
        for _ in range(EVENTS_PER_TURN_MAX):
            try:
                asker, empty, *request = zap.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            decision = gate.decide(request, now_s)
            if decision.refusal:
                self._dispatcher.counters.auth_refused += 1
                self._log_refusal("connection", decision.source, decision.refusal, now_ms)
            zap.send_multipart([asker, empty, *decision.reply], NOBLOCK)

    def _drain_client_events(self, now_ms: int) -> None:
        self._connections += self._drain_events(self._sockets.client_events, "client plane", now_ms)
        assert self._connections >= 0, "more connections went than came"
        self._dispatcher.counters.clients = self._connections

    def _drain_peer_events(self, now_ms: int) -> None:
        self._drain_events(self._sockets.peer_events, "peer plane", now_ms)

    def _drain_events(self, events: Socket, plane: str, now_ms: int) -> int:
        """Count failed handshakes; returns by how many the connections have changed."""
        change, counters = 0, self._dispatcher.counters
        for _ in range(EVENTS_PER_TURN_MAX):
            try:
                packed, _endpoint = events.recv_multipart(NOBLOCK)
            except zmq.Again:
                break
            event = int.from_bytes(packed[:2], "little")
            value = int.from_bytes(packed[2:6], "little")
            if event == zmq.EVENT_ACCEPTED:
                change += 1
            elif event == zmq.EVENT_DISCONNECTED:
                change -= 1
            elif event == zmq.EVENT_ACCEPT_FAILED:
                self._log_refusal(plane, "the system", f"no more connections: {os.strerror(value)}", now_ms)
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value in _CONNECTION_FAULTS:
                counters.auth_refused += 1
                self._log_refusal(plane, "somebody", _CONNECTION_FAULTS[value], now_ms)
            elif event != zmq.EVENT_HANDSHAKE_FAILED_AUTH:  # the ZAP handler has counted that one
                counters.handshakes_failed += 1
                self._log_refusal(plane, "somebody", "not a ZeroMQ handshake, or not in time", now_ms, logging.INFO)
        return change

    # ---- flushing ---------------------------------------------------------------------------------------------------

    def _flush_links(self, now_ms: int) -> None:
        dispatcher = self._dispatcher
        for identity, batches in dispatcher.take_links():
            for at, batch in enumerate(batches):
                try:
                    self._send_batch(identity, batch)
                except zmq.Again:
                    dispatcher.link_full(identity, batches[at:], now_ms)
                    break
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    dispatcher.link_gone(identity, batches[at:])
                    break

    def _send_batch(self, identity: bytes, batch: Batch) -> None:
        """One link message. Only its first part can be refused: libzmq takes a message whole or not at all."""
        send, parts = self._sockets.link.send, batch.parts
        send(identity, MORE)
        for at in range(len(parts) - 1):
            send(parts[at], MORE)
        send(parts[-1], NOBLOCK)

    def _flush_replies(self, now_ms: int) -> None:
        dispatcher, send = self._dispatcher, self._sockets.client.send
        for identity, message in dispatcher.take_replies(now_ms):
            try:
                send(identity, MORE)
                send(message, NOBLOCK)
            except zmq.Again:
                dispatcher.client_full(identity, message, now_ms)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                dispatcher.client_gone(identity, message)

    # ---- now and then -----------------------------------------------------------------------------------------------

    def _each_second(self, now_ms: int) -> None:
        self._next_report_ms = now_ms + self._limits.stats_ms
        self._dispatcher.report(os.getpid())
        self._read_allow_files()
        self._take_pushed_keys()

    def _read_allow_files(self) -> None:
        """Take the allow files in if they have changed. A damaged one leaves the lists as they were."""
        if not self._curve_dir:
            return
        stamp = allow_stamp(self._curve_dir)
        if stamp == self._allow_stamp:
            return
        self._allow_stamp = stamp
        directory = Path(self._curve_dir)
        try:
            clients, peers = read_allow_file(directory / CLIENTS_ALLOW), read_allow_file(directory / PEERS_ALLOW)
        except KeyFileError as error:
            log.error("allowed keys not changed: %s", error)
            return
        self._gate.set_files(clients, peers)
        log.info("allowed keys: %d clients, %d peers", len(clients), len(peers))

    def _take_pushed_keys(self) -> None:
        routing = self._dispatcher.routing
        if routing is None or routing is self._pushed_keys:
            return
        self._pushed_keys = routing
        bad = self._gate.set_pushed(routing.client_keys, routing.peer_keys)
        if bad:
            log.error("the manifest pushed %d texts that are no CURVE keys: ignored", bad)

    def _log_refusal(self, plane: str, source: str, reason: str, now_ms: int, level: int = logging.WARNING) -> None:
        passed_over = self._refusals.note(f"{plane} {source} {reason}", now_ms)
        if passed_over is not None:
            more = f" ({passed_over} more since the last line)" if passed_over else ""
            log.log(level, "%s: refused %s: %s%s", plane, source, reason, more)


def _skip(recv: Callable[..., zmq.Frame], part: zmq.Frame) -> None:
    """Read the rest of a message in parts away."""
    while part.more:
        part = recv(NOBLOCK, copy=False)


def _address_of(part: zmq.Frame) -> str:
    """The address a message came from, as libzmq noted it when the connection was accepted."""
    try:
        return str(part.get("Peer-Address"))
    except zmq.ZMQError:
        return "unknown"


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
