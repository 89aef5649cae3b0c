"""The headers of disk images, one container a module."""
