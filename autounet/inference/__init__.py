"""Trained networks slid over images of any size, and their votes carried back to the stored grid."""
