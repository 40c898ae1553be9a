"""Files of requests, one JSON object a line: reading, running and answering them."""
