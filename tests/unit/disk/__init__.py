"""What of disks needs neither root nor devices."""
