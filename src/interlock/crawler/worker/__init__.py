"""The loops of a worker: crawl, write, extract, deliver, look around."""
