"""What several layers of the tests, and the demonstration, have in common. Nothing here imports pytest."""
