"""`meterhouse report`: the figures of a period in the terminal, as HTML and as CSV."""
