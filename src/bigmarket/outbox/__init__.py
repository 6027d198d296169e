"""WHAT must happen next? The outbox: tasks written with what caused them, relayed afterwards."""
