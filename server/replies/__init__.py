"""Results as the APIs tell them: one file for each API, whole and streamed."""
