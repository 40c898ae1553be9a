"""What goes over the wire, as data: one file for each API."""
