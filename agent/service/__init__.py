"""The running agent: the only place where the parts meet. Tools take single modules from here, which come alone."""
