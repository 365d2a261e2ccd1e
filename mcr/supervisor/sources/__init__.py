"""Where events come from; they only say "look again"."""
