"""MVCCContainer: many states of one type, read and written together in transactions, over any store."""
