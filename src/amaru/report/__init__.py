"""Reports: one design for all of them, offline and self-contained. Here live pages and figures, never measurements.

`page` is the model of a page and its HTML, `figures` draws plain data as inline SVG (and alone imports matplotlib),
`numbers` writes counts and sizes for people.
"""
