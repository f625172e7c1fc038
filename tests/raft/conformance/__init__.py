"""Runs scripts of Raft cases and compares what comes out with what is written in them, byte for byte.

A script is a list of blocks: comments, a command line, input lines, `----`, and the expected output up to an empty
line. `quorum` and `confchange` scripts call the pure parts; `interaction` scripts drive whole nodes step by step.
"""
