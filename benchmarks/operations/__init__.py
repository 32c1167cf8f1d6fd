"""What a platform engineer is promised: image, restarts, faults, overload."""
