"""The documentation site: what it is built from, its look, and what is checked once it is built. `make docs` runs `python -m website`."""
