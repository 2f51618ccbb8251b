"""What surrounds every request: sockets, limits, audit, problem documents."""
