"""The endpoints: one file for each API, each with a `router`."""
