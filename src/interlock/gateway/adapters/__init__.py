"""What the front door touches: its clients, model servers, the scheduler, control."""
