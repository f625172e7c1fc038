"""An encrypted cluster: it replicates, and whoever has no key, a wrong one or a removed one stays outside, counted."""

import time
from collections.abc import Iterator

import pytest

import nokv
from nokv.node import rundir
from nokv.proto.control import Hello, PeerHello, encode_body
from nokv.proto.frame import VERSION, Kind, encode
from nokv.proto.ids import StoreId
from nokv.router.curve import CLIENTS_ALLOW, PEERS_ALLOW, KeyPair, new_pair
from nokv.testing.audit import compare_replicas
from nokv.testing.cluster import LocalCluster
from nokv.testing.faults import children_of
from tests.processes.raw import NoAnswer, RawClient
from tests.processes.waiting import insist, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.xdist_group("encryption")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes that speak CURVE on both planes."""
    with LocalCluster(nodes=3, workers=1, regions=2, curve=True) as made:
        yield made


@pytest.fixture(autouse=True)
def data_is_served(cluster: LocalCluster) -> Iterator[None]:
    """Before and after each intruder the cluster serves whoever has a key."""
    with nokv.Client(cluster.url, timeout=20.0) as db:
        insist(lambda: db.put(b"mine", b"1"))
        yield
        assert db.get(b"mine") == b"1"


def counted(cluster: LocalCluster) -> int:
    """Connections that the first node refused, whoever of the two ends noticed first."""
    stats = cluster.status(cluster.nodes[0]).node.router
    return stats.auth_refused + stats.handshakes_failed


def hello() -> bytes:
    return encode(Kind.HELLO, 1, 0, encode_body(Hello(VERSION)))


def peer_hello(cluster: LocalCluster) -> bytes:
    body = encode_body(PeerHello(VERSION, cluster.topology.cluster_id, StoreId(2), StoreId(1)))
    return encode(Kind.HELLO, 0, 0, body)


def stays_outside(cluster: LocalCluster, address: str, *, server_key: str = "", keys: KeyPair | None = None) -> None:
    """Nothing comes back, and the node counts it."""
    before = counted(cluster)
    with RawClient(address, server_key=server_key, keys=keys) as stranger:
        stranger.send(hello())
        wait_until(lambda: counted(cluster) > before, "the refusal to be counted", timeout_s=20.0)
        with pytest.raises(NoAnswer):
            stranger.receive(timeout_s=0.2)


def test_it_replicates_and_survives_its_leader(cluster: LocalCluster) -> None:
    """S31."""
    with nokv.Client(cluster.url, timeout=30.0) as db:
        for number in range(40):
            db.put(b"%02x-k" % (number * 6), b"%d" % number)
        counts = cluster.leader_count()
        victim = cluster.node(max(counts, key=lambda store_id: counts[store_id]))
        victim.kill()
        for number in range(40):
            db.put(b"%02x-k" % (number * 6), b"again %d" % number)
        victim.start()
        cluster.wait_ready()
        assert [db.get(b"%02x-k" % (number * 6)) for number in range(40)] == [b"again %d" % at for at in range(40)]
    addresses = {StoreId(node.store_id): node.address for node in cluster.nodes}
    views = compare_replicas(cluster.asker, addresses, cluster.routes())
    assert [view.describe() for view in views if not view.equal] == []


@pytest.mark.parametrize("plane", ["client_addr", "peer_addr"])
def test_plaintext_is_refused_on_both_planes(cluster: LocalCluster, plane: str) -> None:
    """A1."""
    stays_outside(cluster, getattr(cluster.topology.stores[0], plane))


@pytest.mark.parametrize("plane", ["client_addr", "peer_addr"])
def test_a_key_that_nobody_allowed_is_refused_on_both_planes(cluster: LocalCluster, plane: str) -> None:
    store = cluster.topology.stores[0]
    stays_outside(cluster, getattr(store, plane), server_key=store.server_key, keys=new_pair())


@pytest.mark.parametrize("plane", ["client_addr", "peer_addr"])
def test_the_wrong_servers_key_is_refused(cluster: LocalCluster, plane: str) -> None:
    assert cluster.keys is not None
    wrong = cluster.topology.stores[1].server_key
    stays_outside(cluster, getattr(cluster.topology.stores[0], plane), server_key=wrong, keys=cluster.keys.client)


def test_a_clients_key_opens_no_peer_plane(cluster: LocalCluster) -> None:
    """A2: the allow-lists are separate; what a client may read is not what a peer may say."""
    assert cluster.keys is not None
    store = cluster.topology.stores[0]
    before = counted(cluster)
    frames = cluster.status(cluster.nodes[0]).node.router.refused_plane
    with RawClient(store.peer_addr, server_key=store.server_key, keys=cluster.keys.client) as client:
        client.send(peer_hello(cluster))
        wait_until(lambda: counted(cluster) > before, "the refusal to be counted", timeout_s=20.0)
    assert cluster.status(cluster.nodes[0]).node.router.refused_plane == frames, "it never got as far as a frame"


def test_a_key_is_taken_away_without_a_restart(cluster: LocalCluster) -> None:
    """A1, A5: the allow-lists are read again; whoever was taken off cannot connect any more."""
    assert cluster.keys is not None
    store, folder = cluster.topology.stores[0], cluster.keys.node_dirs[0]
    guest = new_pair()
    allow_list = folder / CLIENTS_ALLOW
    original = allow_list.read_text()
    allow_list.write_text(f"{original.rstrip()}\n{guest.public.decode()} guest\n")

    def gets_in() -> bool:
        with RawClient(store.client_addr, server_key=store.server_key, keys=guest) as client:
            client.send(hello())
            try:
                return client.receive(timeout_s=1.0)[0].kind == Kind.OK
            except NoAnswer:
                return False

    wait_until(gets_in, "the new key to be allowed", timeout_s=30.0)
    allow_list.write_text(original)
    wait_until(lambda: not gets_in(), "the removed key to be refused", timeout_s=30.0)


def test_clients_of_the_sdk_without_the_right_key_are_told_so(cluster: LocalCluster) -> None:
    urls = (f"nokv://{cluster.nodes[0].client_addr}", cluster.url.partition("&key=")[0])
    for url in urls:
        began = time.monotonic()
        db = nokv.Client(url, timeout=2.0, connect_timeout=2.0)
        with pytest.raises(nokv.ConnectError):
            db.get(b"mine")
        assert time.monotonic() - began < 10.0
        db.close()


def test_neither_logs_nor_status_hold_a_secret(cluster: LocalCluster) -> None:
    """A6."""
    assert cluster.keys is not None
    secrets = [cluster.keys.client.secret.decode()]
    for folder in cluster.keys.node_dirs:
        for file in folder.iterdir():
            if file.name not in (CLIENTS_ALLOW, PEERS_ALLOW):
                assert file.stat().st_mode & 0o077 == 0, f"{file} is open to others"
                secrets += [word for word in file.read_text().split() if len(word) == 40]
    public = {*cluster.keys.public, cluster.keys.client.public.decode()}
    hidden = [secret for secret in secrets if secret not in public]
    assert len(hidden) >= 4
    shown = "".join(node.log_path.read_text(errors="replace") for node in cluster.nodes)
    shown += "".join(repr(cluster.status(node)) for node in cluster.nodes)
    for node in cluster.nodes:
        shown += (cluster.run_root / f"n{node.store_id}" / rundir.EFFECTIVE_NAME).read_text()
        shown += " ".join(word for child in children_of(node) for word in child.cmdline())
    assert [secret for secret in hidden if secret in shown] == []
