"""The steps of the tour, one file a system; `examples/shop/tour.py` puts them in order."""
