"""Coordination over a store: dedup, counters, timeouts, chains, event states, groups, locks."""
