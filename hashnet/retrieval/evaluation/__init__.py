"""How good an index is: queries, right answers, figures and a report."""
