"""How fast the cache answers, what it finds, what it survives and how much of a stream it serves."""
