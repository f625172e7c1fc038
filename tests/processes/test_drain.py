"""SIGTERM to a node of three under load: leaders leave first, no request fails that a retry does not cure."""

import asyncio
import time
from collections.abc import Iterator

import pytest

import nokv
from nokv.exitcodes import EXIT_FINE
from nokv.proto.ids import StoreId
from nokv.testing.audit import compare_replicas, read_back
from nokv.testing.cluster import LocalCluster
from nokv.testing.ledger import Ledger
from nokv.testing.readers import Readers
from nokv.testing.writers import Writers, key_of
from tests.processes.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.xdist_group("drain")]

WRITERS, KEYS_EACH = 32, 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes with two workers each."""
    with LocalCluster(nodes=3, workers=2) as made:
        yield made


async def load(ledger: Ledger) -> None:
    """Wait until a few hundred more writes were acknowledged."""
    goal = ledger.acknowledged + 200
    await asyncio.to_thread(wait_until, lambda: ledger.acknowledged > goal, "load")


async def test_a_rolling_restart_under_load_fails_no_request(cluster: LocalCluster) -> None:
    """R9 in small: each node in turn is drained, started again, and its data is there."""
    ledger = Ledger()
    async with nokv.AsyncClient(cluster.url, timeout=30.0) as db:
        writers = Writers(db, ledger, count=WRITERS, keys_each=KEYS_EACH)
        readers = Readers(db, ledger, [key_of(number) for number in range(WRITERS * KEYS_EACH)], count=4)
        writers.start()
        readers.start()
        drains = []
        for node in cluster.nodes:
            await load(ledger)
            led = cluster.status(node).node.leaders
            began = time.monotonic()
            code = await asyncio.to_thread(node.stop)
            drains.append((led, time.monotonic() - began))
            assert code == EXIT_FINE, node.log_tail()
            text = node.log_path.read_text()
            assert "draining" in text and "did not leave in time" not in text and "Traceback" not in text
            node.start()
            await asyncio.to_thread(cluster.wait_ready)
        await writers.stop()
        await readers.stop()
        assert (ledger.refused, ledger.unknown) == (0, 0), writers.last_error
        assert ledger.acknowledged > 600
        assert readers.failed == 0 and readers.reads > 100
        assert readers.stale == []
        assert await read_back(db, ledger) == []
    assert any(led for led, _took in drains), "no node led anything: nothing was handed over"
    assert max(took for _led, took in drains) < 15.0
    addresses = {StoreId(node.store_id): node.address for node in cluster.nodes}
    views = await asyncio.to_thread(compare_replicas, cluster.asker, addresses, cluster.routes())
    assert [view.describe() for view in views if not view.equal] == []


def test_a_drained_node_hands_over_every_leader_before_it_ends(cluster: LocalCluster) -> None:
    """Its regions have new leaders at once, without an election timeout of silence."""
    counts = cluster.leader_count()
    node = cluster.node(max(counts, key=lambda store_id: counts[store_id]))
    others = [other for other in cluster.nodes if other is not node]
    with nokv.Client(cluster.url, timeout=20.0) as db:
        keys = [key_of(number) for number in range(60)]
        for key in keys:
            db.put(key, b"before")
        assert node.stop() == EXIT_FINE
        gone = time.monotonic()
        for key in keys:
            db.put(key, b"after")
        assert time.monotonic() - gone < 3.0
        wait_until(
            lambda: sum(cluster.status(other).node.leaders for other in others) == len(cluster.topology.regions),
            "the others to lead everything",
        )
        node.start()
        cluster.wait_ready()
        assert all(db.get(key) == b"after" for key in keys)
