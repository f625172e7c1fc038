"""NoKV: a replicated, range-sharded, transactional key-value store in pure Python.

Clients import everything from here: `nokv.Client`, `nokv.AsyncClient`, `nokv.deadline` and the errors. Names are loaded
when they are first used, so `import nokv` costs a server process nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nokv.client._async.client import AsyncClient as AsyncClient
    from nokv.client._async.scan import AsyncScan as AsyncScan
    from nokv.client._async.snapshot import AsyncSnapshot as AsyncSnapshot
    from nokv.client._sync.client import Client as Client
    from nokv.client._sync.scan import Scan as Scan
    from nokv.client._sync.snapshot import Snapshot as Snapshot
    from nokv.client.config import ClientConfig as ClientConfig
    from nokv.client.deadline import deadline as deadline
    from nokv.client.errors import AlreadyExistsError as AlreadyExistsError
    from nokv.client.errors import AuthError as AuthError
    from nokv.client.errors import BusyError as BusyError
    from nokv.client.errors import ClientClosedError as ClientClosedError
    from nokv.client.errors import ClientForkedError as ClientForkedError
    from nokv.client.errors import ConflictError as ConflictError
    from nokv.client.errors import ConnectError as ConnectError
    from nokv.client.errors import CrossRegionError as CrossRegionError
    from nokv.client.errors import LimitError as LimitError
    from nokv.client.errors import LockedError as LockedError
    from nokv.client.errors import NokvError as NokvError
    from nokv.client.errors import ProtocolError as ProtocolError
    from nokv.client.errors import ServerError as ServerError
    from nokv.client.errors import SnapshotTooOldError as SnapshotTooOldError
    from nokv.client.errors import TimeoutError as TimeoutError
    from nokv.client.errors import TransientError as TransientError
    from nokv.client.errors import UnavailableError as UnavailableError
    from nokv.client.errors import UsageError as UsageError
    from nokv.client.errors import WrongThreadError as WrongThreadError
    from nokv.client.errors import WrongTypeError as WrongTypeError
    from nokv.client.hooks import Hooks as Hooks
    from nokv.client.results import KV as KV
    from nokv.client.results import CasResult as CasResult
    from nokv.client.results import ClusterStatus as ClusterStatus
    from nokv.client.results import NodeView as NodeView

__version__ = "0.1.0"

_HOMES: Final = {
    "nokv.client._async.client": ("AsyncClient",),
    "nokv.client._async.scan": ("AsyncScan",),
    "nokv.client._async.snapshot": ("AsyncSnapshot",),
    "nokv.client._sync.client": ("Client",),
    "nokv.client._sync.scan": ("Scan",),
    "nokv.client._sync.snapshot": ("Snapshot",),
    "nokv.client.config": ("ClientConfig",),
    "nokv.client.deadline": ("deadline",),
    "nokv.client.errors": (
        "AlreadyExistsError",
        "AuthError",
        "BusyError",
        "ClientClosedError",
        "ClientForkedError",
        "ConflictError",
        "ConnectError",
        "CrossRegionError",
        "LimitError",
        "LockedError",
        "NokvError",
        "ProtocolError",
        "ServerError",
        "SnapshotTooOldError",
        "TimeoutError",
        "TransientError",
        "UnavailableError",
        "UsageError",
        "WrongThreadError",
        "WrongTypeError",
    ),
    "nokv.client.hooks": ("Hooks",),
    "nokv.client.results": ("KV", "CasResult", "ClusterStatus", "NodeView"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'nokv' has no attribute {name!r}")
    found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted([*_HOME_OF, "__version__"])
