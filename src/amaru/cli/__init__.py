"""The command line: one thin file per verb, around functions of the library. Nothing imports this package."""
