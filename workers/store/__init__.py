"""Durable rows, leases and wake-ups for the workers; SQLite now, built so that a second engine joins by one class."""
