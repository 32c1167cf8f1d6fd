"""Many replicas: measured with a calibrated engine, and simulated with an autoscaler in the loop."""
