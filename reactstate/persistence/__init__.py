"""Where a container's changes go: the protocol, files, and nothing (memory)."""
