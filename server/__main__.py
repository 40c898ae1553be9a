"""`python -m server` is `genai serve`."""

import sys

from genai.cli.main import main

main(["serve", *sys.argv[1:]])
