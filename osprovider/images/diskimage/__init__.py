"""Disk images: from any container into a raw file, and what is on the disk."""
