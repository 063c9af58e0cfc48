"""Figures, from formulas to signed results."""
