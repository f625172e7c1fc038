"""Real-socket fixtures: a fake cluster of three nodes, and each kind of client on it."""

from collections.abc import Iterator

import pytest

from tests.client.both import KINDS, Db
from tests.client.fake_cluster import FakeCluster
from tests.client.fake_nodes import FakeNodes


@pytest.fixture
def cluster() -> FakeCluster:
    """Three stores, three regions cut at "h" and "p", each led by another store."""
    return FakeCluster(cuts=(b"h", b"p"))


@pytest.fixture
def nodes(cluster: FakeCluster) -> Iterator[FakeNodes]:
    """The cluster behind sockets."""
    with FakeNodes(cluster) as nodes:
        yield nodes


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which client: blocking, or asynchronous on either loop."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def db(kind: str, nodes: FakeNodes) -> Iterator[Db]:
    """A client of the cluster."""
    db = Db(kind, nodes.url)
    try:
        yield db
    finally:
        db.end()
