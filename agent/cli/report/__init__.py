"""`meterhouse report`: shows the figures of a period in the terminal, or writes them as HTML or CSV."""
