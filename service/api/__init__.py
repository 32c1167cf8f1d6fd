"""What HTTP sees: schemas, routes, the one error map, limits."""
