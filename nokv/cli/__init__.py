"""The commands: `nokv-node` (one module for each subcommand, see node.py) and `nokv` (data.py).

Modules are imported when their command runs, so that help stays quick; what both commands share about arguments,
messages and exit codes is in entry.py.
"""
