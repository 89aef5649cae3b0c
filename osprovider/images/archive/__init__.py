"""Trees from archives: tar and dump(8), read with suspicion and unpacked in the sandbox."""
