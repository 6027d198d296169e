"""The HTTP edge: reads requests, asks the World, writes answers. No rule of the business lives here."""
