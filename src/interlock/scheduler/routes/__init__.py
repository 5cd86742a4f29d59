"""What the scheduler serves: grants to edges over its socket, pools to operators through control."""

from interlock.scheduler.routes.internal import SchedulerServer

__all__ = ["SchedulerServer"]
