"""The running agent: the only place where the parts meet. Tools import single modules of it, which are independent."""
