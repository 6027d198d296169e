"""Brings a reference installation over: dumps or live databases are staged, mapped, and written into our stores."""
