"""Taking answers apart as they arrive: content, reasoning, tool calls, stop strings."""
