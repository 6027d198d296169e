"""Where it is kept: the schema, its migrations, and one adapter per database."""
