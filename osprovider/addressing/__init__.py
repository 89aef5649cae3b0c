"""Which network configuration each NIC of an instance gets."""
