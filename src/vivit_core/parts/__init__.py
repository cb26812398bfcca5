"""Parts from plain nodes: which classes may be named, with which arguments, and the one function that makes them."""
