"""Disks, for real: plain files and loop devices with sectors of 512 and 4096 bytes, all of them used before."""
