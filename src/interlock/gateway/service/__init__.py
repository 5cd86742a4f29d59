"""Use cases of the front door, in the order in which a request meets them."""
