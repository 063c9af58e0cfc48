"""The running agent, which connects all parts. Tools import single modules of this package."""
