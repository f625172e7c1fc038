"""The client's logic, written once: `_sync` is generated from this package by `python -m nokv.client._unasync`."""
