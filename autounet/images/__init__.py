"""The door: images in from any format, masks out on exactly the same grid."""
