"""A loaded model and what a user does with it: whole texts, streams, coroutines, step by step, sessions."""
