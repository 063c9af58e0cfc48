"""Packages, units, pages for operators."""
