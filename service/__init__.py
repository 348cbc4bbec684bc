"""The same predictions over HTTP; so far only the name is kept for it."""
