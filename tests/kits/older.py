"""Older code runs with today's kernels: the functions are the same, some names are not."""

# Python to run before any import of the older code
KERNEL_NAMES = "import ext.rates\next.rates.Tally = ext.rates.CounterKernel\n"
