"""What holds for the whole tree: layers, kernels, pages that list what the code writes."""
