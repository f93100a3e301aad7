"""Losses: terms of the plan over the levels of deep supervision."""
