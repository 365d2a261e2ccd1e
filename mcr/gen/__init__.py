"""``mcrgen``: makes traffic and measures what became of it."""
