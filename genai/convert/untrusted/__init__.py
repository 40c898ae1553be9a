"""Files that anyone may have made: read with suspicion, run within bounds."""
