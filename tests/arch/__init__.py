"""What holds for the whole tree: floors, kernels, pages that list what the code writes."""
