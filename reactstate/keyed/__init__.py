"""KeyedContainer: many states of one type, each under its id, over any store."""
