"""Kernels against slow references."""
