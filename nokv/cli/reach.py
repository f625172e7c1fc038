"""Which nodes a command talks to: a URL, a topology file, or what a node says about its cluster.

Rules: a topology file names every node; else the hosts of the URL ($NOKV_URL, nokv://127.0.0.1:6658) are asked for the
directory, and the first that answers names them. A node that nobody answers for is still listed.
Not here: data requests, which go through the SDK.
"""

from pathlib import Path

from msgspec import Struct

from nokv.cli.entry import CommandError
from nokv.client.config import config_of
from nokv.client.errors import UsageError
from nokv.config import ConfigError
from nokv.exitcodes import EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_USAGE
from nokv.node.admin import Address, Asker, AskError, status_question
from nokv.node.settings import read_topology
from nokv.proto.control import RegionRoute, RoutesReply, StatusReply, StoreInfo
from nokv.proto.ids import StoreId
from nokv.router.curve import KeyFileError, read_key_file


class Cluster(Struct, frozen=True):
    """The nodes of a cluster and the directory as the first of them that answered knows it."""

    stores: tuple[StoreInfo, ...]
    routes: tuple[RegionRoute, ...]


class Reach:
    """The way to a cluster's nodes. Close it, or use it as a context manager."""

    def __init__(self, url: str, topology: str) -> None:
        """`topology` may also stand in the URL.

        Raises:
            CommandError: the URL, the topology file or the key file is bad.
        """
        try:
            config = config_of(url, {"topology": topology or None})
            keys = read_key_file(Path(config.key_file)) if config.key_file else None
            stores = read_topology(Path(config.topology)).stores if config.topology else ()
        except UsageError as error:
            raise CommandError(str(error), EXIT_USAGE) from error
        except (ConfigError, KeyFileError) as error:
            raise CommandError(str(error), EXIT_CONFIG) from error
        self.seeds = config.seeds
        self.asker = Asker(keys)
        self._from_file = bool(stores)
        self._known = stores or tuple(StoreInfo(StoreId(0), seed, "", "", config.server_key) for seed in config.seeds)

    def __enter__(self) -> "Reach":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.asker.close()

    def find(self, *, timeout_ms: int) -> Cluster:
        """The cluster; addresses alone where no node answers."""
        for store in self._known:
            directory = self._routes_of(store, timeout_ms=timeout_ms)
            if directory is not None:
                return Cluster(self._known if self._from_file else directory.stores, directory.regions)
        return Cluster(self._known, ())

    def need(self, *, timeout_ms: int) -> Cluster:
        """As `find`, but some node must have answered.

        Raises:
            CommandError: none did (exit code 4).
        """
        cluster = self.find(timeout_ms=timeout_ms)
        if not cluster.routes:
            known = ", ".join(store.client_addr for store in cluster.stores)
            raise CommandError(f"no node answers with the directory: {known}", EXIT_UNREACHABLE)
        return cluster

    def statuses(
        self, stores: tuple[StoreInfo, ...], *, regions: bool, timeout_ms: int
    ) -> dict[str, StatusReply | str]:
        """Every store's status by its client address, or why there is none; all asked at once."""
        questions = {store.client_addr: status_question(address_of(store), regions=regions) for store in stores}
        answers = self.asker.ask_all(questions, StatusReply, timeout_ms=timeout_ms)
        return {key: answer.reason if isinstance(answer, AskError) else answer for key, answer in answers.items()}

    def _routes_of(self, store: StoreInfo, *, timeout_ms: int) -> RoutesReply | None:
        try:
            return self.asker.routes(address_of(store), timeout_ms=timeout_ms)
        except AskError:
            return None


def address_of(store: StoreInfo) -> Address:
    """A store's client plane."""
    return Address(store.client_addr, store.server_key)
