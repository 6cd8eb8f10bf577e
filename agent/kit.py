"""The rendezvous kit: what every node is told of the gang, as files and variables.

A directory per node, mounted read-only into its container: `peers.json` for programs, `hostfile`
for mpirun, and, while a barrier holds the command, the FIFO `gate` that it waits on. AWS's own
variables are the coordinator's and are not touched here. Imports `agent.core` alone.
"""
