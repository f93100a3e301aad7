"""The voice of a run: what is being done, how fast, how long still; and its log, events.jsonl."""

from autounet.progress.voice import Progress, Task, Voice

__all__ = ["Progress", "Task", "Voice"]
