"""The steps of a run: one module each; they never import each other."""
