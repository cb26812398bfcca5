"""What a user can do, one file a task."""
