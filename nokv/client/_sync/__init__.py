"""The blocking client's logic, generated from `_async`; see `nokv.client._unasync`."""
