"""Awards by HTTP: signed calls of other systems, and of no address that they should not reach."""
