"""Protocols only: the seams between the core and the world. Each has an in-memory implementation for tests."""
