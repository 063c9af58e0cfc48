"""The running agent: the only place where the parts meet. Tools import some of its modules, each of which stands alone."""
