"""One module a layout: each says whether a folder looks like it, and reads it."""
