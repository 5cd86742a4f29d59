"""The world outside the scheduler: engines, their server, and a scripted stand-in."""
