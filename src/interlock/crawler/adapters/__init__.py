"""What of the crawler touches the outside world."""
