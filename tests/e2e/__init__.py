"""End-to-end tests: a real Ganeti of two nodes, and guests that boot."""
