"""A page on which rows of data are looked through, in the design of the reports; it asks the server that it comes from for them."""

from amaru.report.page import template


def rows_page(title: str) -> str:
    """`rows_page("runs/questions")`: one page without anything from elsewhere.

    It asks for `facts` (steps, with counts by state and columns), `rows` (of a step, filtered, a page at a time) and `row` (where one came
    from).
    """
    return template("rows.html").render(title=title)
