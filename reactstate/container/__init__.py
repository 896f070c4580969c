"""StateContainer: one typed state, versioned, watched and durable."""
