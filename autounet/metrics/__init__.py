"""How good a mask is: every number stands beside the id of its definition."""
